// A pool of std::thread for builds and machines without OpenMP, and for ThreadSanitizer, which does not see into
// OpenMP runtimes. One caller uses it at a time; others run alone meanwhile. It lives as long as the process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "team.h"

namespace rnnfast {

class ThreadPool {
 public:
  // False when another thread is using the pool: nothing has run then.
  bool try_run(int n, TeamBody body, void* context);

 private:
  void work(int id, uint32_t seen);  // seen: the generation before its first
  std::mutex use_, sleep_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> left_{0}, sleepers_{0};
  TeamBody body_ = nullptr;
  void* context_ = nullptr;
  int members_ = 0;
};

}  // namespace rnnfast
