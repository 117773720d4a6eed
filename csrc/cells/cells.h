// The only list of cells in C++. A cell is added by its header and one line X(id, Type) here; kernels,
// bindings, the self-test and (through the bindings) the Python tests walk this list.
//
// V is a value (math/scalar.h). What a cell reads several of, gx, gh and the tape, it is given as anything that has a value
// at each index: an array, or in the kernels of the CPU the memory itself (Slots in cpu/scan_forward.h).
#pragma once
#include "gru.h"
#include "lstm.h"
#include "rnn.h"

#define RNNFAST_FOR_EACH_CELL(X) \
  X(rnn_tanh, RnnTanh)           \
  X(rnn_relu, RnnRelu)           \
  X(lstm, Lstm)                  \
  X(gru, Gru)

namespace rnnfast {

enum class CellId {
#define RNNFAST_CELL_ID(id, Type) id,
  RNNFAST_FOR_EACH_CELL(RNNFAST_CELL_ID)
#undef RNNFAST_CELL_ID
      count
};

}  // namespace rnnfast
