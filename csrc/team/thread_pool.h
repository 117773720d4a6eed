// A pool of threads that sleep between calls. One caller uses it at a time; others run alone meanwhile. It lives as long
// as the process.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "team.h"
#include "wait.h"

namespace rnnfast {

class ThreadPool {
 public:
  // False when another thread is using the pool: nothing has run then.
  bool try_run(int n, TeamBody body, void* context);

 private:
  void work(int id, Signal& calls);
  int grow(int n);  // threads there are now, n if the system gave them

  std::mutex use_;
  std::vector<std::unique_ptr<Signal>> calls_;  // of worker i + 1: how many calls it had part in
  Signal left_;                                 // workers that have not finished this call
  TeamBody body_ = nullptr;
  void* context_ = nullptr;
  int members_ = 0;
};

}  // namespace rnnfast
