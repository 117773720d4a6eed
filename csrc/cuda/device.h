// The devices of this machine and what this build can do with them.
#pragma once
#include <string>
#include <vector>

#include "error.h"

namespace rnnfast::cuda {

struct Device {
  int number;
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  size_t memory, shared, l2;  // bytes; shared: of one block that asks for it
  bool runs;                  // this build has code for it
};

// Every error means none: why_none() has the reason.
std::vector<Device> devices();

// Why no device of this machine can run this build, in words that end a sentence; "" where one can.
std::string why_none();

// Those that the kernels were compiled for, as CMake names them: 80-real, 90a-real, 90-virtual, ...
std::vector<std::string> architectures();

// Whether code for these runs on a device of this compute capability.
bool have_code(const std::vector<std::string>& architectures, int major, int minor);

// Of the runtime that is linked in, and the newest that the driver serves: 1000 * major + 10 * minor; 0: no driver.
int runtime_version();
int driver_version();

// The calling thread's device while this lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

}  // namespace rnnfast::cuda
