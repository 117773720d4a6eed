// Which instruction sets were built, which of them this CPU has, and which one is used.
#include <cstdlib>
#include <stdexcept>

#include "engine.h"

namespace rnnfast {

// The tables that csrc/cpu/kernels.cpp exports, one unit per instruction set and dtype. CMakeLists.txt says which
// were built, best first: RNNFAST_ISAS is X(avx512) X(avx2) X(baseline), or fewer.
#define X(isa)                                                     \
  extern "C" const KernelTable<float> rnnfast_kernels_##isa##_f32; \
  extern "C" const KernelTable<double> rnnfast_kernels_##isa##_f64;
RNNFAST_ISAS
#undef X

namespace {

bool cpu_has(const std::string& isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The flags each unit is compiled with (CMakeLists.txt); the builtin also asks whether the system saves the registers.
  if (isa == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == "baseline" || isa == "neon";
}

struct Entry {
  const char* isa;
  const KernelTable<float>* f32;
  const KernelTable<double>* f64;
};
const Entry entries[] = {
#define X(isa) {#isa, &rnnfast_kernels_##isa##_f32, &rnnfast_kernels_##isa##_f64},
    RNNFAST_ISAS
#undef X
};

const Entry* find(const std::string& isa) {
  for (const Entry& entry : entries)
    if (entry.isa == isa && cpu_has(isa)) return &entry;
  return nullptr;
}

const Entry& choose() {
  const std::vector<std::string> available = available_isas();
  if (available.empty())
    throw std::runtime_error(
        "rnnfast: this build has no kernels that this CPU can run; it was built with RNNFAST_ISAS "
        "set to those of "
        "another. Build it anew without that setting.");
  const char* asked = std::getenv("RNNFAST_ISA");
  if (!asked || !*asked) return *find(available.front());
  if (const Entry* entry = find(asked)) return *entry;
  std::string names;
  for (const std::string& isa : available) names += (names.empty() ? "" : ", ") + isa;
  throw std::invalid_argument("rnnfast: RNNFAST_ISA=" + std::string(asked) +
                              " was asked for, this build and CPU offer " + names +
                              ". Unset it to choose automatically.");
}

const Entry& chosen() {
  static const Entry& entry = choose();
  return entry;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Entry& entry : entries)
    if (cpu_has(entry.isa)) names.emplace_back(entry.isa);
  return names;
}

const std::string& chosen_isa() {
  static const std::string name = chosen().isa;
  return name;
}

template <>
const KernelTable<float>& kernels<float>() {
  return *chosen().f32;
}
template <>
const KernelTable<double>& kernels<double>() {
  return *chosen().f64;
}
template <>
const KernelTable<float>* kernels_of<float>(const std::string& isa) {
  const Entry* entry = find(isa);
  return entry ? entry->f32 : nullptr;
}
template <>
const KernelTable<double>* kernels_of<double>(const std::string& isa) {
  const Entry* entry = find(isa);
  return entry ? entry->f64 : nullptr;
}

}  // namespace rnnfast
