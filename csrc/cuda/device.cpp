#include "device.h"

#include <cstdlib>
#include <sstream>

namespace rnnfast::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

// The number of devices, and CUDA's reason where there is none.
int count(cudaError_t& reason) {
  int n = 0;
  reason = cudaGetDeviceCount(&n);
  if (reason == cudaSuccess) return n;
  cudaGetLastError();
  return 0;
}

}  // namespace

std::vector<std::string> architectures() {
  std::vector<std::string> out;
  std::istringstream words(RNNFAST_CUDA_ARCHITECTURES);
  for (std::string word; std::getline(words, word, ',');) out.push_back(word);
  return out;
}

// A number N stands for compute capability N/10. "N-real" is machine code: for N and later minor versions of the same
// major one. "N-virtual" is PTX, which the driver translates for N and everything later. "N" is both. Behind "a" code is
// for N alone, behind "f" for N and later minor versions, in either form.
bool have_code(const std::vector<std::string>& architectures, int major, int minor) {
  for (const auto& name : architectures) {
    char* rest;
    const long number = std::strtol(name.c_str(), &rest, 10);
    if (number == 0) continue;
    const bool alone = *rest == 'a', family = *rest == 'f';
    const std::string kind = rest + (alone || family);
    const bool same = number == 10L * major + minor,
               same_major = number / 10 == major && number % 10 <= minor;
    if (alone ? same : same_major) return true;
    if (!alone && !family && kind != "-real" && number <= 10L * major + minor) return true;
  }
  return false;
}

std::vector<Device> devices() {
  cudaError_t reason;
  std::vector<Device> out;
  const auto built_for = architectures();
  for (int i = 0, n = count(reason); i < n; ++i) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, i), "cudaGetDeviceProperties");
    out.push_back({i, p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem,
                   p.sharedMemPerBlockOptin, size_t(p.l2CacheSize),
                   have_code(built_for, p.major, p.minor)});
  }
  return out;
}

std::string why_none() {
  cudaError_t reason;
  if (count(reason) == 0) {
    if (reason == cudaSuccess || reason == cudaErrorNoDevice) {
      const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
      return "an NVIDIA driver is there, but no device" +
             (visible ? " (CUDA_VISIBLE_DEVICES=" + std::string(visible) + ")" : std::string());
    }
    if (reason == cudaErrorInsufficientDriver) {
      const int driver = driver_version();
      if (driver == 0) return "there is no NVIDIA driver";
      return "the NVIDIA driver serves CUDA " + version_text(driver) +
             ", which is older than the CUDA " + version_text(runtime_version()) +
             " of this build; a newer driver is needed";
    }
    return std::string("CUDA finds no device: ") + cudaGetErrorString(reason) + " (" +
           cudaGetErrorName(reason) + ")";
  }
  std::string found;
  for (const Device& d : devices()) {
    if (d.runs) return "";
    found += (found.empty() ? "" : ", ") + d.name + " of compute capability " +
             std::to_string(d.major) + "." + std::to_string(d.minor);
  }
  return "no device has code in this build: found " + found + "; built for " +
         joined(architectures());
}

int runtime_version() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

int driver_version() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  return version;
}

OnDevice::OnDevice(int device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
}
OnDevice::~OnDevice() {
  // Whatever went wrong was reported where it did.
  if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

}  // namespace rnnfast::cuda
