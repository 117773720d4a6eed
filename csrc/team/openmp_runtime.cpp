#include "openmp_runtime.h"

#if defined(RNNFAST_OPENMP_RUNTIME)
#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <string>

namespace rnnfast {
namespace {

// What librnnfast_openmp.so would be bound to: a library of this name, whatever number follows.
constexpr char kRuntime[] = RNNFAST_OPENMP_RUNTIME;

struct Libraries {
  unsigned long long loaded = 0;  // how many were, ever
  bool has_runtime = false;
};

// Every library's name is looked at only where their number has changed: it takes 20 ns to see that.
Libraries look(unsigned long long before) {
  struct Search {
    Libraries found;
    unsigned long long before;
  } search{{}, before};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* context) {
        auto& [found, before] = *static_cast<Search*>(context);
        found.loaded = library->dlpi_adds;
        if (found.loaded == before) return 1;
        const char* slash = std::strrchr(library->dlpi_name, '/');
        const char* name = slash ? slash + 1 : library->dlpi_name;
        found.has_runtime = std::strncmp(name, kRuntime, sizeof kRuntime - 1) == 0;
        return int(found.has_runtime);
      },
      &search);
  return search.found;
}

// librnnfast_openmp.so lies beside the module that this code is part of.
const OpenMP* load() {
  Dl_info self;
  if (!dladdr(reinterpret_cast<void*>(&load), &self) || !self.dli_fname) return nullptr;
  std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  path = (slash == std::string::npos ? "./" : path.substr(0, slash + 1)) + "librnnfast_openmp.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  static OpenMP openmp;
  openmp.max_threads = reinterpret_cast<int (*)()>(dlsym(library, "rnnfast_openmp_max_threads"));
  openmp.run =
      reinterpret_cast<void (*)(int, TeamBody, void*)>(dlsym(library, "rnnfast_openmp_run"));
  return openmp.max_threads && openmp.run ? &openmp : nullptr;
}

std::atomic<const OpenMP*> present{nullptr};
std::atomic<unsigned long long> looked_at{0};
std::mutex loading;

}  // namespace

const OpenMP* openmp_runtime() {
  if (const OpenMP* openmp = present.load(std::memory_order_acquire)) return openmp;
  const unsigned long long before = looked_at.load(std::memory_order_relaxed);
  const Libraries now = look(before);
  if (now.loaded == before) return nullptr;
  const std::lock_guard<std::mutex> lock(loading);
  if (now.has_runtime && !present.load()) present.store(load());
  looked_at.store(now.loaded, std::memory_order_relaxed);
  return present.load();
}

}  // namespace rnnfast

#else  // built without

namespace rnnfast {
const OpenMP* openmp_runtime() { return nullptr; }
}  // namespace rnnfast

#endif
