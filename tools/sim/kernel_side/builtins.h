// The part of CUDA C++ that the templates use, for the host's compiler: comes before a rendered
// kernel.
#pragma once

#include <api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// base.cuh shall declare its types as for the device.
#define __CUDACC_RTC__
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// Of one CTA at a time: block-scope variables are static then, and an extern array stays one.
#define __shared__ thread_local

#define threadIdx (::kiln_sim::self->thread)
#define blockIdx (::kiln_sim::self->block)
#define blockDim (::kiln_sim::self->block_size)
#define gridDim (::kiln_sim::self->grid_size)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  std::uint32_t x, y;
};
struct alignas(16) uint4 {
  std::uint32_t x, y, z, w;
};

inline std::uint32_t __float_as_uint(float value) { return std::bit_cast<std::uint32_t>(value); }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline std::uint32_t __popc(std::uint32_t bits) {
  return static_cast<std::uint32_t>(std::popcount(bits));
}
// max.f32: NaN loses against a number, a signalling one too, which the C library's function keeps.
inline float device_fmaxf(float x, float y) {
  if (x != x) return y != y ? __uint_as_float(0x7fffffff) : y;
  if (y != y || x > y) return x;
  return x == y && std::signbit(y) ? x : y;
}
#define fmaxf device_fmaxf

inline std::uint32_t min(std::uint32_t x, std::uint32_t y) { return x < y ? x : y; }
template <class T>
T __ldcs(const T* address) {
  return *address;
}

// Byte i of the result is byte (selector >> 4 * i) & 7 of y:x.
inline std::uint32_t __byte_perm(std::uint32_t x, std::uint32_t y, std::uint32_t selector) {
  const std::uint64_t bytes = std::uint64_t{y} << 32 | x;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<std::uint32_t>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}

// CTAs run one after the other, threads change only inside calls: nothing else can come between.
inline double atomicAdd(double* to, double value) {
  const double old = *to;
  *to += value;
  return old;
}
inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
  const unsigned long long old = *to;
  if (value > old) *to = value;
  return old;
}

inline void __syncthreads(kiln_sim::Where where = kiln_sim::Where::current()) {
  kiln_sim::sync_threads(where);
}

// ---- warps: every lane takes part in all of them ----

namespace kiln_sim {
template <class T>
T shuffled(T value, std::uint32_t from, const Where& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits, from & 31, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace kiln_sim

inline void __syncwarp(kiln_sim::Where where = kiln_sim::Where::current()) {
  kiln_sim::sync_warp(where);
}
template <class T>
T __shfl_sync(std::uint32_t, T value, std::uint32_t from,
              kiln_sim::Where where = kiln_sim::Where::current()) {
  return kiln_sim::shuffled(value, from, where);
}
template <class T>
T __shfl_up_sync(std::uint32_t, T value, std::uint32_t distance,
                 kiln_sim::Where where = kiln_sim::Where::current()) {
  const std::uint32_t lane = threadIdx.x % 32;
  return kiln_sim::shuffled(value, lane >= distance ? lane - distance : lane, where);
}
template <class T>
T __shfl_xor_sync(std::uint32_t, T value, std::uint32_t mask,
                  kiln_sim::Where where = kiln_sim::Where::current()) {
  return kiln_sim::shuffled(value, threadIdx.x % 32 ^ mask, where);
}
inline std::uint32_t __ballot_sync(std::uint32_t, bool value,
                                   kiln_sim::Where where = kiln_sim::Where::current()) {
  return kiln_sim::ballot(value, where);
}
inline bool __all_sync(std::uint32_t, bool value,
                       kiln_sim::Where where = kiln_sim::Where::current()) {
  return kiln_sim::ballot(value, where) == 0xffffffffu;
}
