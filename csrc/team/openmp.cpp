// The OpenMP back end, a shared library of its own: loading it fails where there is no OpenMP runtime, and nothing
// else does.
#include <omp.h>

extern "C" __attribute__((visibility("default"))) int rnnfast_openmp_max_threads() {
  return omp_get_max_threads();
}

extern "C" __attribute__((visibility("default"))) void rnnfast_openmp_run(
    int asked, void (*body)(void*, int, int), void* context) {
#pragma omp parallel num_threads(asked)
  body(context, omp_get_thread_num(), omp_get_num_threads());
}
