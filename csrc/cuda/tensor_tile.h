// A tile on tensor cores. Operands of the same 16 bits are multiplied as they are. Others go as tf32, to which 16 bits are
// exact; a float is rounded to it, or, in a tile that is `wide`, is the sum of two of its numbers, which have all its bits
// but one or two.
#pragma once
#include "product.h"
#include "tensor.h"

namespace rnnfast::cuda {

// k per pass over shared memory. Four 16-byte reads bring a line of floats; there are two buffers.
constexpr int kTensorDepth = 32;

// One operand's part of a pass: on its way in registers, then as it is stored in shared memory, lines as they lie in
// memory. Lines are padded so that the lanes of a fragment (tensor.h) read different banks.
template <class Operand, int count>
struct Stage {
  using Value = typename Operand::Value;
  static constexpr bool kLong = Operand::k_together;
  static constexpr int kUnit = 16 / int(sizeof(Value));
  static constexpr int kLines = kLong ? count : kTensorDepth, kLine = kLong ? kTensorDepth : count;
  static constexpr int kStride = kLine + (kLong ? kUnit : 8);
  static constexpr int kSize = kLines * kStride;
  static constexpr int kUnits = kLines * kLine / kUnit;
  static constexpr int kHeld = (kUnits + kTileThreads - 1) / kTileThreads;

  struct alignas(16) Unit {
    Value at[kUnit];
  };
  Unit held[kHeld];

  // Rows from `first` on and k from k0 on; zeros behind `limit` and k_end.
  RNNFAST_DEVICE void fetch(const Operand& from, Index first, Index limit, Index k0, Index k_end) {
    each_unit([&](int j, int line, int at) {
      const Index l = line + (kLong ? first : k0), i = at + (kLong ? k0 : first);
      const Index lines = kLong ? limit : k_end, end = kLong ? k_end : limit;
      const Value* source = l < lines ? from.line(l) : nullptr;
      if (source && i + kUnit <= end && reinterpret_cast<uintptr_t>(source + i) % 16 == 0) {
        held[j] = *reinterpret_cast<const Unit*>(source + i);
      } else {
        RNNFAST_UNROLL
        for (int c = 0; c < kUnit; ++c)
          held[j].at[c] = source && i + c < end ? source[i + c] : Value{};
      }
    });
  }
  RNNFAST_DEVICE void put(Value* to) const {
    each_unit([&](int j, int line, int at) {
      *reinterpret_cast<Unit*>(to + line * kStride + at) = held[j];
    });
  }
  RNNFAST_DEVICE static int place(int i, int k) {
    return kLong ? i * kStride + k : k * kStride + i;
  }

 private:
  template <class F>
  RNNFAST_DEVICE static void each_unit(F f) {
    RNNFAST_UNROLL
    for (int j = 0; j < kHeld; ++j) {
      const int e = int(threadIdx.x) + j * kTileThreads;
      if (kUnits % kTileThreads == 0 || e < kUnits)
        f(j, e / (kLine / kUnit), e % (kLine / kUnit) * kUnit);
    }
  }
};

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

// How a number is given to tensor cores: as itself, or as the tf32 nearest to it and, of a wide one, the rest.
template <class Value, bool wide>
struct Parts {
  static constexpr int kParts = 1;
  RNNFAST_DEVICE static void of(Value v, uint32_t (&part)[kParts]) { part[0] = bits::of(load(v)); }
};
template <>
struct Parts<float, false> {
  static constexpr int kParts = 1;
  RNNFAST_DEVICE static void of(float v, uint32_t (&part)[kParts]) { part[0] = to_tf32(v); }
};
template <>
struct Parts<float, true> {
  static constexpr int kParts = 2;
  RNNFAST_DEVICE static void of(float v, uint32_t (&part)[kParts]) {
    part[0] = to_tf32(v);
    const float rest = v - bits::to_float(part[0]);
    // Infinity, or what is rounded to it, has no rest.
    part[1] = rest - rest == 0 ? to_tf32(rest) : 0;
  }
};

template <int rows_, int columns_, class A, class B, bool wide>
struct TensorTile {
  static constexpr int rows = rows_, columns = columns_;
  using SA = Stage<A, rows>;
  using SB = Stage<B, columns>;
  using AValue = typename A::Value;
  using BValue = typename B::Value;
  using PA = Parts<AValue, wide>;
  using PB = Parts<BValue, wide>;
  static constexpr bool kPairs = kSame<AValue, BValue> && sizeof(AValue) == 2;
  static_assert(!kPairs || (A::k_together && B::k_together), "pairs of terms lie together");
  // A warp has `down` x `across` fragments of the sums, as many rows as can be.
  static constexpr int kWarps = kTileThreads / 32;
  static constexpr int kWarpsDown = rows >= 128 ? rows / 32 : rows / 16;
  static constexpr int kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kDown = rows / 16 / kWarpsDown;
  static constexpr int kAcross = (columns / 8 + kWarpsAcross - 1) / kWarpsAcross;
  static_assert(rows % 16 == 0 && columns % 8 == 0 && kWarps % kWarpsDown == 0);
  static constexpr size_t kBuffer = SA::kSize * sizeof(AValue) + SB::kSize * sizeof(BValue);
  static constexpr size_t kSums = size_t(rows) * columns * sizeof(float);
  static constexpr size_t shared = 2 * kBuffer > kSums ? 2 * kBuffer : kSums;

  float sums[kDown][kAcross][4];

  RNNFAST_DEVICE void run(const A& a, const B& b, Index m0, Index M, Index n0, Index N,
                          Index k_begin, Index k_end, void* shared_memory) {
    auto* const memory = static_cast<unsigned char*>(shared_memory);
    const auto a_of = [&](int buffer) {
      return reinterpret_cast<AValue*>(memory + size_t(buffer) * kBuffer);
    };
    const auto b_of = [&](int buffer) {
      return reinterpret_cast<BValue*>(memory + size_t(buffer) * kBuffer +
                                       SA::kSize * sizeof(AValue));
    };
    float part[kDown][kAcross][4];
    RNNFAST_UNROLL
    for (int i = 0; i < kDown; ++i) {
      RNNFAST_UNROLL
      for (int j = 0; j < kAcross; ++j) {
        RNNFAST_UNROLL
        for (int r = 0; r < 4; ++r) sums[i][j][r] = part[i][j][r] = 0;
      }
    }
    SA stage_a;
    SB stage_b;
    int buffer = 0;
    if (k_begin < k_end) {
      stage_a.fetch(a, m0, M, k_begin, k_end);
      stage_b.fetch(b, n0, N, k_begin, k_end);
      stage_a.put(a_of(0));
      stage_b.put(b_of(0));
    }
    __syncthreads();
    RNNFAST_NO_UNROLL
    for (Index k0 = k_begin; k0 < k_end; k0 += kTensorDepth) {
      // The next part is on its way while this one is multiplied.
      const bool more = k0 + kTensorDepth < k_end;
      if (more) {
        stage_a.fetch(a, m0, M, k0 + kTensorDepth, k_end);
        stage_b.fetch(b, n0, N, k0 + kTensorDepth, k_end);
      }
      add(a_of(buffer), b_of(buffer), part);
      if ((k0 + kTensorDepth - k_begin) % kSumBlock == 0 || !more) {
        RNNFAST_UNROLL
        for (int i = 0; i < kDown; ++i) {
          RNNFAST_UNROLL
          for (int j = 0; j < kAcross; ++j) {
            RNNFAST_UNROLL
            for (int r = 0; r < 4; ++r) {
              sums[i][j][r] = sums[i][j][r] + part[i][j][r];
              part[i][j][r] = 0;
            }
          }
        }
      }
      buffer ^= 1;
      if (more) {
        stage_a.put(a_of(buffer));
        stage_b.put(b_of(buffer));
      }
      // The only barrier of a pass: who writes a buffer has passed the one behind its last reading.
      __syncthreads();
    }
  }

  template <class F>
  RNNFAST_DEVICE void each(F f) const {
    RNNFAST_UNROLL
    for (int i = 0; i < kDown; ++i) {
      RNNFAST_UNROLL
      for (int j = 0; j < kAcross; ++j) {
        if (!there(j)) continue;
        RNNFAST_UNROLL
        for (int r = 0; r < 4; ++r)
          f(first_row(i) + group() + r / 2 * 8, first_column(j) + 2 * quarter() + r % 2,
            sums[i][j][r]);
      }
    }
  }

 private:
  RNNFAST_DEVICE static int group() { return int(threadIdx.x) % 32 / 4; }
  RNNFAST_DEVICE static int quarter() { return int(threadIdx.x) % 4; }
  // Of fragment i, or j, of this warp.
  RNNFAST_DEVICE static int first_row(int i) {
    return (int(threadIdx.x) / 32 / kWarpsAcross * kDown + i) * 16;
  }
  RNNFAST_DEVICE static int first_column(int j) {
    return (int(threadIdx.x) / 32 % kWarpsAcross * kAcross + j) * 8;
  }
  RNNFAST_DEVICE static bool there(int j) {
    return columns % (8 * kAcross * kWarpsAcross) == 0 || first_column(j) < columns;
  }

  RNNFAST_DEVICE static void add(const AValue* as, const BValue* bs,
                                 float (&part)[kDown][kAcross][4]) {
    if constexpr (kPairs) {
      RNNFAST_UNROLL
      for (int k = 0; k < kTensorDepth; k += 16) {
        uint32_t x[kDown][4];
        RNNFAST_UNROLL
        for (int i = 0; i < kDown; ++i) {
          RNNFAST_UNROLL
          for (int r = 0; r < 4; ++r)
            x[i][r] = pair(
                as + SA::place(first_row(i) + group() + r % 2 * 8, k + 2 * quarter() + r / 2 * 8));
        }
        RNNFAST_UNROLL
        for (int j = 0; j < kAcross; ++j) {
          if (!there(j)) continue;
          uint32_t w[2];
          RNNFAST_UNROLL
          for (int r = 0; r < 2; ++r)
            w[r] = pair(bs + SB::place(first_column(j) + group(), k + 2 * quarter() + r * 8));
          RNNFAST_UNROLL
          for (int i = 0; i < kDown; ++i) multiply(part[i][j], x[i], w, AValue{});
        }
      }
    } else {
      RNNFAST_NO_UNROLL
      for (int k = 0; k < kTensorDepth; k += 8) {
        uint32_t x[kDown][PA::kParts][4];
        RNNFAST_UNROLL
        for (int i = 0; i < kDown; ++i) {
          RNNFAST_UNROLL
          for (int r = 0; r < 4; ++r) {
            uint32_t parts[PA::kParts];
            PA::of(as[SA::place(first_row(i) + group() + r % 2 * 8, k + quarter() + r / 2 * 4)],
                   parts);
            RNNFAST_UNROLL
            for (int p = 0; p < PA::kParts; ++p) x[i][p][r] = parts[p];
          }
        }
        RNNFAST_UNROLL
        for (int j = 0; j < kAcross; ++j) {
          if (!there(j)) continue;
          uint32_t w[PB::kParts][2];
          RNNFAST_UNROLL
          for (int r = 0; r < 2; ++r) {
            uint32_t parts[PB::kParts];
            PB::of(bs[SB::place(first_column(j) + group(), k + quarter() + r * 4)], parts);
            RNNFAST_UNROLL
            for (int p = 0; p < PB::kParts; ++p) w[p][r] = parts[p];
          }
          // Small ones first. The product of two rests is below what a float32 keeps.
          RNNFAST_UNROLL
          for (int i = 0; i < kDown; ++i) {
            if constexpr (PA::kParts > 1) multiply(part[i][j], x[i][1], w[0], float{});
            if constexpr (PB::kParts > 1) multiply(part[i][j], x[i][0], w[1], float{});
            multiply(part[i][j], x[i][0], w[0], float{});
          }
        }
      }
    }
  }

  struct alignas(4) Pair {
    AValue at[2];
  };
  RNNFAST_DEVICE static uint32_t pair(const AValue* from) {
    const Pair both = *reinterpret_cast<const Pair*>(from);
    return uint32_t(both.at[0].bits) | uint32_t(both.at[1].bits) << 16;
  }
};

}  // namespace rnnfast::cuda
