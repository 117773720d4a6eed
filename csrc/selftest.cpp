// rnnfast_selftest: checks the kernels without Python, wherever a C++ program runs: under emulation, under sanitizers,
// with another compiler. Exit status 1 when anything is wrong. RNNFAST_ISA narrows it to one instruction set.
//
//     cmake -S . -B build/selftest -DRNNFAST_PYTHON=OFF -DRNNFAST_SELFTEST=ON && cmake --build build/selftest
//     build/selftest/rnnfast_selftest
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "selftest/duals.h"
#include "selftest/options.h"
#include "team/team.h"

namespace rnnfast {
namespace {

int finish(const char* name, const Report& report) {
  printf("%-4s %s: %d checks, %d failed\n", report.failed ? "FAIL" : "ok", name, report.checks,
         report.failed);
  fflush(stdout);
  return report.failed ? 1 : 0;
}

int check_this_isa() {
  Report report;
  check_kernels<float>(report);
  check_kernels<double>(report);
  check_all_options<float>(report);
  check_all_options<double>(report);
  return finish((chosen_isa() + " kernels, team " + team_backend()).c_str(), report);
}

// A process chooses its instruction set once. The child must find no thread started and nothing chosen.
bool isa_passes_in_child(const std::string& isa) {
  const pid_t child = fork();
  if (child < 0) {
    perror("fork");
    return false;
  }
  if (child == 0) {
    setenv("RNNFAST_ISA", isa.c_str(), 1);
    exit(check_this_isa());
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) {
    perror("waitpid");
    return false;
  }
  if (WIFSIGNALED(status)) printf("FAIL %s kernels: signal %d\n", isa.c_str(), WTERMSIG(status));
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int selftest() {
  bool good = true;
  const char* only = getenv("RNNFAST_ISA");
  if (!only || !*only) {
    for (const std::string& isa : available_isas()) good &= isa_passes_in_child(isa);
  } else {
    good &= check_this_isa() == 0;
  }
  Report duals;
  check_duals(duals);
  good &= finish("dual numbers", duals) == 0;
  return good ? 0 : 1;
}

}  // namespace
}  // namespace rnnfast

int main() { return rnnfast::selftest(); }
