// What a kernel that was compiled for the host asks of the simulator. Included by both sides: by
// kernel_side/ptx.cuh, which spells PTX instructions with it, and by the model that does them.
//
// Every call acts for the simulated thread that is running, may let others run before it returns,
// and throws where the kernel breaks a rule. Shared addresses are 32-bit, as in the kernels.
#pragma once

#include <cstdint>
#include <source_location>

#define KILN_SIM_API __attribute__((visibility("default")))

namespace kiln_sim {

using Where = std::source_location;  // of the call in the templates

struct Index {
  std::uint32_t x = 0, y = 0, z = 0;
};
struct Self {  // the running thread, as the built-in variables have it
  Index thread, block, block_size, grid_size;
};
KILN_SIM_API extern Self* self;

// A part of shared memory, for messages and checks: `count` pieces of `bytes` each.
struct Region {
  const char* name;  // null: behind the last one
  const char* unit;  // what a piece is: "stage", "slot"
  std::uint32_t offset, bytes, count;
};

// ---- mbarrier ----
KILN_SIM_API void barrier_init(std::uint32_t barrier, std::uint32_t count, const Where& where);
KILN_SIM_API void barrier_arrive(std::uint32_t barrier, std::uint32_t count, std::uint32_t bytes,
                                 const Where& where);
KILN_SIM_API void barrier_arrive_remote(std::uint32_t barrier, std::uint32_t rank,
                                        const Where& where);
KILN_SIM_API bool barrier_try_wait(std::uint32_t barrier, std::uint32_t parity, const Where& where);
KILN_SIM_API bool barrier_look(std::uint32_t barrier, std::uint32_t parity, const Where& where);
KILN_SIM_API void barrier_init_fence();

// ---- shared memory of a cluster ----
// A CTA's addresses carry its rank, as they do on a GPU.
inline constexpr std::uint32_t kRankShift = 24;
constexpr std::uint32_t offset_in_cta(std::uint32_t address) {
  return address & ((1u << kRankShift) - 1);
}
// Where mapa says that another CTA's is.
constexpr std::uint32_t remote_address(std::uint32_t address, std::uint32_t rank) {
  return (rank + 1) << kRankShift | offset_in_cta(address);
}
KILN_SIM_API void barrier_arrive_at(std::uint32_t remote_barrier, const Where& where);
KILN_SIM_API void store_async(std::uint32_t remote, const float (&values)[4],
                              std::uint32_t remote_barrier, const Where& where);

// ---- thread block and cluster ----
KILN_SIM_API void sync_threads(const Where& where);
// Barrier `name` of `threads` threads; `waits` or only arrives.
KILN_SIM_API void named_barrier(std::uint32_t name, std::uint32_t threads, bool waits,
                                const Where& where);
KILN_SIM_API void cluster_arrive(const Where& where);
KILN_SIM_API void cluster_wait(const Where& where);
KILN_SIM_API std::uint32_t cluster_rank();
KILN_SIM_API void set_max_registers(std::uint32_t registers, bool increase, const Where& where);

// ---- warp ----
enum class Exchange : std::uint32_t { kSync, kShuffle, kBallot, kRegisters, kMma };
KILN_SIM_API void sync_warp(const Where& where);
// Gives each lane's value to the warp and returns that of lane `from`.
KILN_SIM_API std::uint64_t shuffle(std::uint64_t value, std::uint32_t from, const Where& where);
KILN_SIM_API std::uint32_t ballot(bool value, const Where& where);

// ---- dependent launches ----
KILN_SIM_API void grid_wait();

// ---- asynchronous copies ----
// mask 0: into this CTA alone.
KILN_SIM_API void tma_load(std::uint32_t to, const void* map, const std::uint32_t* at,
                           std::uint32_t rank, std::uint32_t barrier, std::uint32_t mask,
                           const Where& where);
KILN_SIM_API void tma_store(const void* map, const std::uint32_t* at, std::uint32_t rank,
                            std::uint32_t from, bool add, const Where& where);
KILN_SIM_API void tma_prefetch(const void* map, const Where& where);
KILN_SIM_API void bulk_commit();
KILN_SIM_API void bulk_wait_read(std::uint32_t pending, const Where& where);
KILN_SIM_API void proxy_fence();
KILN_SIM_API void copy_async(std::uint32_t to, const void* from, std::uint32_t bytes, bool valid,
                             const Where& where);
KILN_SIM_API void copy_async_commit();
KILN_SIM_API void copy_async_wait(std::uint32_t pending, const Where& where);

// ---- shared memory ----
KILN_SIM_API void load_shared(std::uint32_t address, void* to, std::uint32_t bytes,
                              const Where& where);
KILN_SIM_API void store_shared(std::uint32_t address, const void* from, std::uint32_t bytes,
                               const Where& where);
KILN_SIM_API void store_matrix(std::uint32_t address, const std::uint32_t* registers,
                               std::uint32_t count, const Where& where);
KILN_SIM_API void load_matrix(std::uint32_t address, std::uint32_t* registers, std::uint32_t count,
                              const Where& where);

// ---- WGMMA ----
enum class MmaType : std::uint8_t { kE4m3, kE5m2, kTf32 };
struct MmaShape {
  std::uint32_t n;
  MmaType a, b;
  std::uint32_t rows;  // of A that matter: what the others are is nobody's concern
  bool operator==(const MmaShape&) const = default;
};
KILN_SIM_API void mma_fence(const Where& where);
KILN_SIM_API void mma(float* registers, std::uint64_t a, std::uint64_t b, const MmaShape& shape,
                      bool add, const Where& where);
// With A in registers: the lane's 4.
KILN_SIM_API void mma(float* registers, const std::uint32_t* a, std::uint64_t b,
                      const MmaShape& shape, bool add, const Where& where);
KILN_SIM_API void mma_commit();
KILN_SIM_API void mma_wait(std::uint32_t pending, const Where& where);

// What a register of a WGMMA in flight holds: a NaN that arithmetic hands on.
inline constexpr std::uint32_t kInFlight = 0x7fe5eed1;
[[noreturn]] KILN_SIM_API void fail_in_flight(const Where& where);

// An FP8 value and its neighbour, to the nearest, ties to even, saturating; NaN becomes 0x7f.
KILN_SIM_API std::uint16_t to_fp8x2(float low, float high, bool is_e4m3);
KILN_SIM_API float from_fp8(std::uint8_t bits, bool is_e4m3);

}  // namespace kiln_sim
