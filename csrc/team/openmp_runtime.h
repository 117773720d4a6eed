// The OpenMP runtime that another library has brought into this process, PyTorch for example: two teams of threads side
// by side would fight for the same cores.
#pragma once
#include "team.h"

namespace rnnfast {

struct OpenMP {
  int (*max_threads)();
  void (*run)(int asked, TeamBody body, void* context);
};

// Null where there is none, or where this build has nothing that uses it. Looks again when libraries have been loaded.
const OpenMP* openmp_runtime();

}  // namespace rnnfast
