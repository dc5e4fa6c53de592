// templates/ptx.cuh for the simulator: the same functions with the same signatures. To add an
// instruction, spell it here with the calls of api.h; one that is missing does not compile, and one
// that the model cannot do must not be written.
#pragma once

#include <base.cuh>
#include <params.cuh>

#define KILN_HERE ::kiln_sim::Where where = ::kiln_sim::Where::current()

constexpr u32 kSharedBase = 1024;  // where a CTA's dynamic shared memory begins

// Only ever asked of the dynamic shared memory, which is one array.
KILN_DEVICE u32 smem_address(const void*) {
  return kiln_sim::cluster_rank() << kiln_sim::kRankShift | kSharedBase;
}

// ---- mbarrier ----

KILN_DEVICE void mbarrier_init(u32 barrier, u32 count, KILN_HERE) {
  kiln_sim::barrier_init(barrier, count, where);
}
KILN_DEVICE void mbarrier_arrive(u32 barrier, KILN_HERE) {
  kiln_sim::barrier_arrive(barrier, 1, 0, where);
}
KILN_DEVICE void mbarrier_arrive_count(u32 barrier, u32 count, KILN_HERE) {
  kiln_sim::barrier_arrive(barrier, count, 0, where);
}
KILN_DEVICE void mbarrier_arrive_cluster(u32 barrier, u32 cta_rank, KILN_HERE) {
  kiln_sim::barrier_arrive_remote(barrier, cta_rank, where);
}
KILN_DEVICE void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes, KILN_HERE) {
  kiln_sim::barrier_arrive(barrier, 1, bytes, where);
}
KILN_DEVICE bool mbarrier_look(u32 barrier, u32 parity, KILN_HERE) {
  return kiln_sim::barrier_look(barrier, parity, where);
}
KILN_DEVICE bool mbarrier_try_wait_parity(u32 barrier, u32 parity, KILN_HERE) {
  return kiln_sim::barrier_try_wait(barrier, parity, where);
}
KILN_DEVICE void fence_mbarrier_init() { kiln_sim::barrier_init_fence(); }

// ---- cluster and thread block ----

KILN_DEVICE void barrier_cluster_arrive_relaxed(KILN_HERE) { kiln_sim::cluster_arrive(where); }
KILN_DEVICE void barrier_cluster_arrive(KILN_HERE) { kiln_sim::cluster_arrive(where); }
KILN_DEVICE void barrier_cluster_wait(KILN_HERE) { kiln_sim::cluster_wait(where); }
KILN_DEVICE u32 cluster_ctarank() { return kiln_sim::cluster_rank(); }

// Lane 0 of a whole warp.
KILN_DEVICE bool elect_sync(KILN_HERE) {
  kiln_sim::sync_warp(where);
  return threadIdx.x % 32 == 0;
}
template <u32 kName, u32 kThreads>
KILN_DEVICE void bar_sync(KILN_HERE) {
  kiln_sim::named_barrier(kName, kThreads, true, where);
}
template <u32 kName, u32 kThreads>
KILN_DEVICE void bar_arrive(KILN_HERE) {
  kiln_sim::named_barrier(kName, kThreads, false, where);
}

template <u32 kRegisters>
KILN_DEVICE void setmaxnreg_dec(KILN_HERE) {
  kiln_sim::set_max_registers(kRegisters, false, where);
}
template <u32 kRegisters>
KILN_DEVICE void setmaxnreg_inc(KILN_HERE) {
  kiln_sim::set_max_registers(kRegisters, true, where);
}

// ---- programmatic dependent launch: launches run one after the other, but a thread must not ----
// ---- touch what the one before may still write until it has waited                         ----

KILN_DEVICE void griddepcontrol_wait() { kiln_sim::grid_wait(); }
KILN_DEVICE void griddepcontrol_launch_dependents() {}

// ---- TMA; L2 policies change no result ----

constexpr u64 kEvictNormal = 0x1000000000000000ull;
constexpr u64 kEvictFirst = 0x12f0000000000000ull;

KILN_DEVICE void prefetch_tensormap(const TensorMap& map, KILN_HERE) {
  kiln_sim::tma_prefetch(&map, where);
}
KILN_DEVICE void tma_load_2d_multicast(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier,
                                       u16 cta_mask, KILN_HERE) {
  const u32 at[] = {x, y};
  kiln_sim::tma_load(smem, &map, at, 2, barrier, cta_mask, where);
}
KILN_DEVICE void tma_load_2d(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier, KILN_HERE) {
  tma_load_2d_multicast(smem, map, x, y, barrier, 0, where);
}
KILN_DEVICE void tma_load_2d_policy(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier, u64,
                                    KILN_HERE) {
  tma_load_2d_multicast(smem, map, x, y, barrier, 0, where);
}
KILN_DEVICE void tma_load_3d_multicast(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z,
                                       u32 barrier, u16 cta_mask, KILN_HERE) {
  const u32 at[] = {x, y, z};
  kiln_sim::tma_load(smem, &map, at, 3, barrier, cta_mask, where);
}
KILN_DEVICE void tma_load_3d(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z, u32 barrier,
                             KILN_HERE) {
  tma_load_3d_multicast(smem, map, x, y, z, barrier, 0, where);
}
KILN_DEVICE void tma_load_3d_policy(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z,
                                    u32 barrier, u64, KILN_HERE) {
  tma_load_3d_multicast(smem, map, x, y, z, barrier, 0, where);
}
KILN_DEVICE void tma_store_2d(const TensorMap& map, u32 x, u32 y, u32 smem, KILN_HERE) {
  const u32 at[] = {x, y};
  kiln_sim::tma_store(&map, at, 2, smem, false, where);
}
KILN_DEVICE void tma_store_3d(const TensorMap& map, u32 x, u32 y, u32 z, u32 smem, KILN_HERE) {
  const u32 at[] = {x, y, z};
  kiln_sim::tma_store(&map, at, 3, smem, false, where);
}
KILN_DEVICE void tma_reduce_add_2d(const TensorMap& map, u32 x, u32 y, u32 smem, KILN_HERE) {
  const u32 at[] = {x, y};
  kiln_sim::tma_store(&map, at, 2, smem, true, where);
}
KILN_DEVICE void tma_reduce_add_3d(const TensorMap& map, u32 x, u32 y, u32 z, u32 smem, KILN_HERE) {
  const u32 at[] = {x, y, z};
  kiln_sim::tma_store(&map, at, 3, smem, true, where);
}

KILN_DEVICE void cp_async_bulk_commit_group() { kiln_sim::bulk_commit(); }
template <u32 kPending>
KILN_DEVICE void cp_async_bulk_wait_group_read(KILN_HERE) {
  kiln_sim::bulk_wait_read(kPending, where);
}
KILN_DEVICE void fence_proxy_async() { kiln_sim::proxy_fence(); }

// ---- small asynchronous copies ----

KILN_DEVICE void cp_async_4(u32 smem, const void* global, bool valid, KILN_HERE) {
  kiln_sim::copy_async(smem, global, 4, valid, where);
}
KILN_DEVICE void cp_async_16(u32 smem, const void* global, bool valid, KILN_HERE) {
  kiln_sim::copy_async(smem, global, 16, valid, where);
}
KILN_DEVICE void cp_async_commit_group() { kiln_sim::copy_async_commit(); }
template <u32 kPending>
KILN_DEVICE void cp_async_wait_group(KILN_HERE) {
  kiln_sim::copy_async_wait(kPending, where);
}

// ---- shared memory ----

// What is to be stored must not come from a register that a WGMMA still writes.
KILN_DEVICE void require_landed(float value, const kiln_sim::Where& where) {
  if (__float_as_uint(value) == kiln_sim::kInFlight) kiln_sim::fail_in_flight(where);
}

template <class T>
KILN_DEVICE T loaded_shared(u32 address, const kiln_sim::Where& where) {
  T value;
  kiln_sim::load_shared(address, &value, sizeof(T), where);
  return value;
}
KILN_DEVICE float ld_shared_f32(u32 address, KILN_HERE) {
  return loaded_shared<float>(address, where);
}
KILN_DEVICE float2 ld_shared_v2_f32(u32 address, KILN_HERE) {
  return loaded_shared<float2>(address, where);
}
KILN_DEVICE u32 ld_shared_u32(u32 address, KILN_HERE) { return loaded_shared<u32>(address, where); }
KILN_DEVICE uint4 ld_shared_v4_u32(u32 address, KILN_HERE) {
  return loaded_shared<uint4>(address, where);
}
KILN_DEVICE void st_shared_u32(u32 address, u32 value, KILN_HERE) {
  kiln_sim::store_shared(address, &value, 4, where);
}
KILN_DEVICE void st_shared_v4_u32(u32 address, u32 x, u32 y, u32 z, u32 w, KILN_HERE) {
  const u32 words[] = {x, y, z, w};
  kiln_sim::store_shared(address, words, 16, where);
}
KILN_DEVICE void st_shared_f32(u32 address, float value, KILN_HERE) {
  require_landed(value, where);
  kiln_sim::store_shared(address, &value, 4, where);
}
KILN_DEVICE void st_shared_v2_f32(u32 address, float x, float y, KILN_HERE) {
  require_landed(x, where);
  require_landed(y, where);
  const float pair[] = {x, y};
  kiln_sim::store_shared(address, pair, 8, where);
}
KILN_DEVICE void st_shared_v4_f32(u32 address, float x, float y, float z, float w, KILN_HERE) {
  const float values[] = {x, y, z, w};
  for (const float value : values) require_landed(value, where);
  kiln_sim::store_shared(address, values, 16, where);
}
KILN_DEVICE void ldmatrix_x4(u32 (&to)[4], u32 address, KILN_HERE) {
  kiln_sim::load_matrix(address, to, 4, where);
}
KILN_DEVICE void stmatrix_x2(u32 address, u32 r0, u32 r1, KILN_HERE) {
  const u32 registers[] = {r0, r1};
  kiln_sim::store_matrix(address, registers, 2, where);
}
KILN_DEVICE void stmatrix_x4(u32 address, u32 r0, u32 r1, u32 r2, u32 r3, KILN_HERE) {
  const u32 registers[] = {r0, r1, r2, r3};
  kiln_sim::store_matrix(address, registers, 4, where);
}

// ---- the shared memory of other CTAs of the cluster ----

KILN_DEVICE u32 mapa(u32 address, u32 cta_rank) {
  return kiln_sim::remote_address(address, cta_rank);
}
KILN_DEVICE void st_async_v4_f32(u32 address, float x, float y, float z, float w, u32 barrier,
                                 KILN_HERE) {
  const float values[] = {x, y, z, w};
  for (const float value : values) require_landed(value, where);
  kiln_sim::store_async(address, values, barrier, where);
}
KILN_DEVICE void mbarrier_arrive_release_cluster(u32 remote_barrier, KILN_HERE) {
  kiln_sim::barrier_arrive_at(remote_barrier, where);
}
KILN_DEVICE bool mbarrier_try_wait_parity_cluster(u32 barrier, u32 parity, KILN_HERE) {
  return kiln_sim::barrier_try_wait(barrier, parity, where);
}
KILN_DEVICE float4 ld_shared_v4_f32(u32 address, KILN_HERE) {
  return loaded_shared<float4>(address, where);
}

// ---- WGMMA ----

KILN_DEVICE void wgmma_fence(KILN_HERE) { kiln_sim::mma_fence(where); }
KILN_DEVICE void wgmma_commit_group() { kiln_sim::mma_commit(); }
template <u32 kPending>
KILN_DEVICE void wgmma_wait_group(KILN_HERE) {
  kiln_sim::mma_wait(kPending, where);
}

// ---- registers ----

KILN_DEVICE void keep_register(float& value, KILN_HERE) { require_landed(value, where); }
KILN_DEVICE u32 opaque_register(u32 value) { return value; }

// ---- conversion ----

KILN_DEVICE u32 rounded_to_bf16(float value) {
  const u32 bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
KILN_DEVICE u32 cvt_bf16x2(float low, float high, KILN_HERE) {
  require_landed(low, where);
  require_landed(high, where);
  return rounded_to_bf16(low) | rounded_to_bf16(high) << 16;
}
template <bool kE4m3>
KILN_DEVICE u16 cvt_fp8x2(float low, float high) {
  return kiln_sim::to_fp8x2(low, high, kE4m3);
}
template <bool kE4m3>
KILN_DEVICE float2 cvt_f32x2_fp8x2(u16 packed) {
  return {kiln_sim::from_fp8(static_cast<u8>(packed), kE4m3),
          kiln_sim::from_fp8(static_cast<u8>(packed >> 8), kE4m3)};
}

// A NaN loses against a number; two make a NaN.
KILN_DEVICE u32 larger_bf16(u32 x, u32 y) {
  const float a = __uint_as_float(x << 16), b = __uint_as_float(y << 16);
  if (a != a) return b != b ? 0x7fff : y;
  return b != b || a > b ? x : y;
}
KILN_DEVICE u32 max_bf16x2(u32 x, u32 y) {
  return larger_bf16(x & 0xffff, y & 0xffff) | larger_bf16(x >> 16, y >> 16) << 16;
}
