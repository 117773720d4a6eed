// The objects that Python holds: the tape of a forward call, and prepared (packed, frozen) parameters.
#pragma once
#include <string>
#include <vector>

#include "../cpu/arena.h"
#include "options.h"

namespace rnnfast {

// What index input needs besides the indices themselves: the distinct ones, and each entry's place among them.
struct IndexTable {
  std::vector<int32_t> slot;      // (T, B)
  std::vector<int64_t> distinct;  // ascending
};

struct PyTape {
  CellId cell;
  int type;  // NumPy type number
  Dims dims;
  int D;
  bool dense_x;
  IndexTable index;
  std::unique_ptr<const CallOptions> given;  // null: a plain call
  const CallOptions& options() const { return given ? *given : kPlainCall; }
  struct Direction {
    AlignedBlock cell, states, replaced, masks, dropped_R;
    bool has_bW, has_bR;
  };
  std::vector<Direction> directions;

  // Borrowed until backward: kept alive here, and noted by checksum, since a change in between would give gradients
  // of a network that never ran. NumPy lets shape, strides and memory change in place too.
  struct Borrowed {
    std::string name;
    py::object array;
    void* data = nullptr;
    int nd = 0, type = 0;
    Py_intptr_t shape[3] = {}, strides[3] = {};
    uint64_t checksum = 0;
    int direction = 0, weight = -1;  // 0: W, 1: R, whose checksums the scan takes; -1: none of them
  };
  std::vector<Borrowed> borrowed;
  py::object x, y, params, state;
};

struct PyPrepared {
  CellId cell;
  int type;
  Index I, H;
  uint64_t checksum;  // of the parameters that were packed
  std::vector<AlignedBlock> directions;
};

}  // namespace rnnfast
