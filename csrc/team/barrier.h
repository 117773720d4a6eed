// A barrier of up to n members.
#pragma once
#include <memory>

#include "wait.h"

namespace rnnfast {

class TeamBarrier {
 public:
  explicit TeamBarrier(int most);  // room for so many members
  void wait(int id, int n);

  // Nanoseconds that members spent in long waits, all of them together. To be asked when all have gone.
  int64_t waited() const;

 private:
  struct Part {
    Signal came;  // how often this member has come
    int64_t waited = 0;
  };
  int most_;
  std::unique_ptr<Part[]> parts_;
};

}  // namespace rnnfast
