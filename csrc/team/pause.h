// Tells the CPU that this thread is spinning.
#pragma once

namespace rnnfast {

inline void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace rnnfast
