#include "wait.h"

#include <sched.h>

#include "team.h"

namespace rnnfast {

bool room_for(int members) { return members <= available_cores(); }

#if defined(__linux__)

int current_cpu() { return sched_getcpu(); }

void leave_cpu_of(int waker) {
  if (waker < 0 || waker != current_cpu()) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(waker, &others);
  if (sched_setaffinity(0, sizeof others, &others) == 0)
    sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

int current_cpu() { return -1; }
void leave_cpu_of(int) {}

#endif

}  // namespace rnnfast
