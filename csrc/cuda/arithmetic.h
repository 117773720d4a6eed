// Which tiles the products of a layer take. The order of a sum is the same in all tiles of one kind.
#pragma once
#include "fma_tile.h"
#include "tensor_tile.h"

namespace rnnfast::cuda {

// float32 and float64 as IEEE has them.
struct Ieee {
  template <int rows, int columns, class A, class B>
  using Tile = FmaTile<rows / 16, columns / 16, A, B>;
  static constexpr int kRows = 64, kColumns = 64;
  // Of a step: rows where there are at most as many, and else; columns of the step back beside them.
  static constexpr int kFewRows = 16, kManyRows = 64;
  static constexpr int kFewColumns = 16, kManyColumns = 64;
};

// Tensor cores: float32 rounded to tf32, or storage of 16 bits, where `wide` keeps what is a float a float. One tile of a
// step for any number of rows: rows that are not there cost little in it.
template <bool wide>
struct Tensor {
  template <int rows, int columns, class A, class B>
  using Tile = TensorTile<rows, columns, A, B, wide>;
  static constexpr int kRows = 128, kColumns = 64;
  static constexpr int kFewRows = 32, kManyRows = 32;
  static constexpr int kFewColumns = 32, kManyColumns = 32;
};

}  // namespace rnnfast::cuda
