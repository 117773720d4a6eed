// What callers use: the chosen instruction set's kernels, run by a team of threads with scratch from this thread's
// arena. Compiled once, for the baseline CPU.
#pragma once
#include <string>
#include <vector>

#include "../api.h"

namespace rnnfast {

// Instruction sets that were built and that this CPU has, best first; and the one in use (RNNFAST_ISA, else the best).
// Throws std::invalid_argument where RNNFAST_ISA names what is not there.
std::vector<std::string> available_isas();
const std::string& chosen_isa();

template <class Real>
const KernelTable<Real>& kernels();
// The table of a named instruction set, null where it is not available (tests and `rnnfast check`).
template <class Real>
const KernelTable<Real>* kernels_of(const std::string& isa);

// Jobs of one call: the directions of a layer, of one cell and equal dims. threads = 0: as many as pay, at most
// team_threads(); -n: as many as pay, at most n. Results do not depend on it.
template <class Real>
void run_forward(CellId cell, const ForwardArgs<Real>* jobs, int count, int threads);
template <class Real>
void run_backward(CellId cell, const BackwardArgs<Real>* jobs, int count, int threads);
template <class Real>
void run_linear_forward(const LinearArgs<Real>& args, int threads);
template <class Real>
void run_linear_backward(const LinearArgs<Real>& args, int threads);
template <class Real>
void run_masked_rows(const MaskedRows<Real>& args, int threads);

template <class Real>
void run_unpack_rows(const UnpackRows<Real>& args);

// Elements of a tape's parts, for so many places.
template <class Real>
Index tape_cell_size(CellId cell, Index places, Index H);
template <class Real>
Index tape_state_size(Index rows, Index H);
template <class Real>
Index tape_mask_size(Index rows, Index H);

}  // namespace rnnfast
