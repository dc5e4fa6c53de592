// One function per PTX instruction, named after it, without logic. Shared-memory addresses are
// 32-bit
// (`smem_address`), so that every access keeps its address space.
#pragma once

#include "base.cuh"
#include "params.cuh"

KILN_DEVICE u32 smem_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier ----

KILN_DEVICE void mbarrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

KILN_DEVICE void mbarrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// As one thread for `count` expected arrivals.
KILN_DEVICE void mbarrier_arrive_count(u32 barrier, u32 count) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count)
               : "memory");
}

// Arrives on the barrier at the same offset in another CTA of the cluster. Without an explicit
// cluster scope on purpose: what it orders is the reuse of a stage by TMA, and .release.cluster
// costs a fence per arrival (measured on H200, 4096x7168x16384, 256x128 in clusters of 2: 1043 us
// with it).
KILN_DEVICE void mbarrier_arrive_cluster(u32 barrier, u32 cta_rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(cta_rank)
      : "memory");
}

KILN_DEVICE void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Whether the phase is complete: for who has something else to do. Answers after 20 to 30 cycles.
KILN_DEVICE bool mbarrier_look(u32 barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Sleeps until the phase completes, up to so many nanoseconds. Without a time it returns at once,
// and a loop round it polls (H200: every 30 cycles).
constexpr u32 kSleepNs = 10000000;
KILN_DEVICE bool mbarrier_try_wait_parity(u32 barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity), "n"(kSleepNs)
      : "memory");
  return done != 0;
}

KILN_DEVICE void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// ---- cluster and thread block ----

// Relaxed is enough after fence_mbarrier_init(), which orders the barriers' initialisation.
KILN_DEVICE void barrier_cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
KILN_DEVICE void barrier_cluster_arrive() {
  asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
}
KILN_DEVICE void barrier_cluster_wait() {
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

KILN_DEVICE u32 cluster_ctarank() {
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// True in one lane of a whole warp. What only that lane does ptxas then takes for uniform: without
// it, each TMA instruction gets a loop around it.
KILN_DEVICE bool elect_sync() {
  u32 elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

template <u32 kRegisters>
KILN_DEVICE void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <u32 kRegisters>
KILN_DEVICE void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- programmatic dependent launch: no-ops in a launch without the attribute ----

KILN_DEVICE void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
KILN_DEVICE void griddepcontrol_launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// ---- TMA ----

KILN_DEVICE void prefetch_tensormap(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

KILN_DEVICE void tma_load_2d(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3}], [%4];" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

// L2 policies of a load, encoded as createpolicy.fractional with fraction 1 would.
constexpr u64 kEvictNormal = 0x1000000000000000ull;
constexpr u64 kEvictFirst = 0x12f0000000000000ull;

KILN_DEVICE void tma_load_2d_policy(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier,
                                    u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
      : "memory");
}

// Writes the box to the same offset in every CTA of the mask and completes on each one's barrier.
KILN_DEVICE void tma_load_2d_multicast(u32 smem, const TensorMap& map, u32 x, u32 y, u32 barrier,
                                       u16 cta_mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::"
      "cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(cta_mask)
      : "memory");
}

// The same with a third coordinate.
KILN_DEVICE void tma_load_3d(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3, %4}], [%5];" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

KILN_DEVICE void tma_load_3d_policy(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z,
                                    u32 barrier, u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
      : "memory");
}

KILN_DEVICE void tma_load_3d_multicast(u32 smem, const TensorMap& map, u32 x, u32 y, u32 z,
                                       u32 barrier, u16 cta_mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::"
      "cluster"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(smem),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(cta_mask)
      : "memory");
}

KILN_DEVICE void tma_store_2d(const TensorMap& map, u32 x, u32 y, u32 smem) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
          &map),
      "r"(x), "r"(y), "r"(smem)
      : "memory");
}

KILN_DEVICE void tma_store_3d(const TensorMap& map, u32 x, u32 y, u32 z, u32 smem) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(
          &map),
      "r"(x), "r"(y), "r"(z), "r"(smem)
      : "memory");
}

// Adds the box to global memory, element by element, in L2.
KILN_DEVICE void tma_reduce_add_2d(const TensorMap& map, u32 x, u32 y, u32 smem) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], "
      "[%3];" ::"l"(&map),
      "r"(x), "r"(y), "r"(smem)
      : "memory");
}

KILN_DEVICE void tma_reduce_add_3d(const TensorMap& map, u32 x, u32 y, u32 z, u32 smem) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2, %3}], "
      "[%4];" ::"l"(&map),
      "r"(x), "r"(y), "r"(z), "r"(smem)
      : "memory");
}

KILN_DEVICE void cp_async_bulk_commit_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <u32 kPending>
KILN_DEVICE void cp_async_bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

KILN_DEVICE void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- small asynchronous copies ----

// Four bytes from global to shared memory; zeros when !valid (the source is then not read).
KILN_DEVICE void cp_async_4(u32 smem, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem), "l"(global),
               "r"(valid ? 4u : 0u)
               : "memory");
}

// Sixteen bytes, past L1; both addresses 16-byte aligned.
KILN_DEVICE void cp_async_16(u32 smem, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem), "l"(global),
               "r"(valid ? 16u : 0u)
               : "memory");
}

KILN_DEVICE void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <u32 kPending>
KILN_DEVICE void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- shared memory ----

KILN_DEVICE float ld_shared_f32(u32 address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

KILN_DEVICE float2 ld_shared_v2_f32(u32 address) {
  float2 value;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(value.x), "=f"(value.y)
               : "r"(address)
               : "memory");
  return value;
}

KILN_DEVICE u32 ld_shared_u32(u32 address) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

KILN_DEVICE uint4 ld_shared_v4_u32(u32 address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

KILN_DEVICE void st_shared_u32(u32 address, u32 value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

KILN_DEVICE void st_shared_v4_u32(u32 address, u32 x, u32 y, u32 z, u32 w) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x), "r"(y), "r"(z),
               "r"(w)
               : "memory");
}

KILN_DEVICE void st_shared_f32(u32 address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

KILN_DEVICE void st_shared_v2_f32(u32 address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}

KILN_DEVICE void st_shared_v4_f32(u32 address, float x, float y, float z, float w) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x), "f"(y), "f"(z),
               "f"(w)
               : "memory");
}

KILN_DEVICE void ldmatrix_x4(u32 (&to)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

KILN_DEVICE void stmatrix_x2(u32 address, u32 r0, u32 r1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(r0),
               "r"(r1)
               : "memory");
}

KILN_DEVICE void stmatrix_x4(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

// All of kThreads threads, which are whole warps, meet at barrier kName, or have arrived there.
template <u32 kName, u32 kThreads>
KILN_DEVICE void bar_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(kName), "n"(kThreads) : "memory");
}
template <u32 kName, u32 kThreads>
KILN_DEVICE void bar_arrive() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kName), "n"(kThreads) : "memory");
}

// ---- the shared memory of other CTAs of the cluster ----

// The same offset in another CTA.
KILN_DEVICE u32 mapa(u32 address, u32 cta_rank) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(cta_rank));
  return remote;
}

// Sixteen bytes to another CTA; they complete on its barrier. Both addresses from mapa().
KILN_DEVICE void st_async_v4_f32(u32 address, float x, float y, float z, float w, u32 barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address),
      "f"(x), "f"(y), "f"(z), "f"(w), "r"(barrier)
      : "memory");
}

// Orders what this thread read before what the other CTA writes after it has seen the arrival.
KILN_DEVICE void mbarrier_arrive_release_cluster(u32 remote_barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier)
               : "memory");
}

KILN_DEVICE bool mbarrier_try_wait_parity_cluster(u32 barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2, %3;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity), "n"(kSleepNs)
      : "memory");
  return done != 0;
}

KILN_DEVICE float4 ld_shared_v4_f32(u32 address) {
  float4 value;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// ---- WGMMA (the mma itself is generated for each tile: see jit/source.cc) ----

KILN_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
KILN_DEVICE void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <u32 kPending>
KILN_DEVICE void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// ---- conversion ----

KILN_DEVICE u32 cvt_bf16x2(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <bool kE4m3>
KILN_DEVICE u16 cvt_fp8x2(float low, float high) {
  u16 packed;
  if constexpr (kE4m3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

// By way of FP16, which holds every FP8 value.
template <bool kE4m3>
KILN_DEVICE float2 cvt_f32x2_fp8x2(u16 packed) {
  u32 halves;
  float2 value;
  if constexpr (kE4m3) {
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(packed));
  } else {
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(packed));
  }
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, "
      "high;\n}\n"
      : "=f"(value.x), "=f"(value.y)
      : "r"(halves));
  return value;
}

// In each half, of magnitudes. A NaN loses against a number; two make a NaN.
KILN_DEVICE u32 max_bf16x2(u32 x, u32 y) {
  u32 result;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(x), "r"(y));
  return result;
}

// ---- registers, as the compiler sees them ----

// The value stays in its register here: code that computes or uses it does not move across.
KILN_DEVICE void keep_register(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// The value, hidden from the compiler: what is computed from it cannot move out of a loop.
KILN_DEVICE u32 opaque_register(u32 value) {
  asm volatile("" : "+r"(value));
  return value;
}
