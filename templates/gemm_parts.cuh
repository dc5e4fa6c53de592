// Parts of K: each has warpgroups, or a CTA of the cluster, of its own, and their totals meet at
// the end of a tile. They are added in an order that does not depend on who has them, so that a row
// gives the same bits wherever in a tile it is. Protocol: gemm.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

// ---- of a CTA: part 0 gets the sum ----

KILN_DEVICE void add_parts(const Consumer& c, float (&total)[kMmaN / 2]) {
  const bool has_rows = c.warp % 4 < kStoreWarps;
  const u32 slot = c.smem + kSmem.partials + c.store_warp * kSmem.gathered_bytes + c.lane * 4;
  bar_sync<kPartsBarrier, kConsumers * 128>();  // part 0 has read those of the last tile
  if (c.part > 0 && has_rows) {
#pragma unroll
    for (u32 i = 0; i < kMmaN / 2; ++i)
      st_shared_f32(slot + (c.part - 1) * kSmem.partial_bytes + i * 128, total[i]);
  }
  bar_sync<kPartsBarrier, kConsumers * 128>();
  if (c.part == 0 && has_rows) {
#pragma unroll
    for (u32 part = 1; part < kWarpgroupsK; ++part) {
#pragma unroll
      for (u32 i = 0; i < kMmaN / 2; ++i)
        total[i] += ld_shared_f32(slot + (part - 1) * kSmem.partial_bytes + i * 128);
    }
  }
}

// ---- of a cluster: each warp's rows belong to one rank, which gets the sum ----

// Barriers of each warp that stores: the owner's gather_full completes when the other ranks' totals
// have landed, and the others' gather_empty when the owner has read those of the previous tile. The
// owner says so only when it wants more: then nobody writes to a CTA that may have left, and the
// cluster need not end together. H200, 128x80 in four parts: 30 KB to and from each CTA take 1.2
// us.
KILN_DEVICE void gather_parts(const Consumer& c, u32 tiles, float (&total)[kMmaN / 2],
                              float (&sum)[kMmaN / 2]) {
  const u32 owner = c.store_warp % kClusterK, phase = tiles & 1;
  const u32 full = c.smem + kSmem.gather_full + c.store_warp * 8;
  const u32 empty = c.smem + kSmem.gather_empty + c.store_warp * 8;
  const u32 from = c.smem + kSmem.gathered +
                   c.store_warp / kClusterK * (kClusterK - 1) * kSmem.gathered_bytes + c.lane * 16;
  if (c.rank != owner) {
    wait_cluster(empty, phase ^ 1);
    const u32 to =
        mapa(from + (c.rank < owner ? c.rank : c.rank - 1) * kSmem.gathered_bytes, owner);
    const u32 barrier = mapa(full, owner);
#pragma unroll
    for (u32 i = 0; i < kMmaN / 2; i += 4)
      st_async_v4_f32(to + i * 128, total[i], total[i + 1], total[i + 2], total[i + 3], barrier);
    return;
  }
  if (tiles > 0 && c.lane < kClusterK && c.lane != owner)
    mbarrier_arrive_release_cluster(mapa(empty, c.lane));
  if (c.lane == 0) mbarrier_arrive_expect_tx(full, (kClusterK - 1) * kSmem.gathered_bytes);
  wait_cluster(full, phase);
#pragma unroll
  for (u32 i = 0; i < kMmaN / 2; ++i) sum[i] = 0;
  u32 next = from;
#pragma unroll 1
  for (u32 part = 0; part < kClusterK; ++part) {
    if (part == c.rank) {
#pragma unroll
      for (u32 i = 0; i < kMmaN / 2; ++i) sum[i] += total[i];
    } else {
#pragma unroll
      for (u32 i = 0; i < kMmaN / 2; i += 4) {
        const float4 x = ld_shared_v4_f32(next + i * 128);
        sum[i] += x.x, sum[i + 1] += x.y, sum[i + 2] += x.z, sum[i + 3] += x.w;
      }
      next += kSmem.gathered_bytes;
    }
  }
#pragma unroll
  for (u32 i = 0; i < kMmaN / 2; ++i) total[i] = sum[i];
}
