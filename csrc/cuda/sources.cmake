# rnnfast._cuda, whatever compiles it: nvcc and the C++ compiler (CMakeLists.txt beside this file), or the C++
# compiler alone for the twin (tests/simt). Kernels and launches are in .cu files; pybind11 never is, for nvcc takes
# longer over it than g++.
set(RNNFAST_CUDA_KERNELS convert copy masks layer_f32 layer_f64 layer_bf16 layer_f16)
set(RNNFAST_CUDA_HOST device error launch memory)
set(RNNFAST_CUDA_BINDINGS cuda cuda_kernels cuda_layer device_array dlpack)
list(TRANSFORM RNNFAST_CUDA_KERNELS REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/csrc/cuda/\\1.cu")
list(TRANSFORM RNNFAST_CUDA_HOST REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/csrc/cuda/\\1.cpp")
list(TRANSFORM RNNFAST_CUDA_BINDINGS REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/csrc/bindings/\\1.cpp")
