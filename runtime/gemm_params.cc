#include "runtime/gemm_params.h"

#include "runtime/tensor_map.h"

namespace kiln::runtime {
namespace {

using jit::Layout;

static_assert(sizeof(device::PackedGemmParams) <= 32764,
              "the parameters of a kernel have at most 32,764 bytes since CUDA 12.1");

// A map cannot be empty. Without K no kernel reads its inputs, so that any valid map will do.
MatrixView unread_input(const kiln_operands& o) { return {o.d, 1, 16, 16}; }

// The same matrix as slices of one k-block each, so that one box can hold several of them.
MatrixView by_k_blocks(const MatrixView& view) {
  return {view.address,    view.rows, jit::kScaleBlock, view.stride, view.cols / jit::kScaleBlock,
          jit::kScaleBlock};
}

void fill_ab(const GemmCall& call, device::GemmParams* params) {
  const jit::Problem& p = call.problem;
  const kiln_operands& o = call.operands;
  const LaunchSizes& s = call.sizes;
  const bool masked = p.layout == Layout::kGroupedMasked;
  MatrixView a{o.a, o.m, s.k, o.lda, masked ? p.groups : 0, s.a_group_stride};
  MatrixView b{o.b, p.n, s.k, o.ldb, jit::has_row_groups(p) ? s.num_slices : 0, s.b_group_stride};
  if (s.k == 0) [[unlikely]]
    a = b = unread_input(o);
  if (call.boxes.k_blocks > 1) a = by_k_blocks(a), b = by_k_blocks(b);
  encode_fp8(call.driver, "a", a, call.boxes.a_rows, call.boxes.k_blocks, &params->a);
  encode_fp8(call.driver, "b", b, call.boxes.b_rows, call.boxes.k_blocks, &params->b);
}

// D from group `first` on. Without a map group g has slice g.
void fill_output(const GemmCall& call, std::int32_t first, device::GemmParams* params) {
  const jit::Problem& p = call.problem;
  const kiln_operands& o = call.operands;
  const std::int64_t skipped = o.expert_map == nullptr ? first : 0;
  const std::int64_t bytes = jit::element_bytes(p.out);
  auto* const d = static_cast<char*>(o.d) + skipped * call.sizes.d_group_stride * bytes;
  params->num_slices = static_cast<std::uint32_t>(call.sizes.num_slices - skipped);
  const std::int64_t slices = p.layout == Layout::kGroupedMasked ? p.groups
                              : p.layout == Layout::kGroupedK    ? params->num_slices
                                                                 : 0;
  encode_output(call.driver, {d, o.m, p.n, o.ldd, slices, call.sizes.d_group_stride}, bytes,
                call.boxes.d_chunk_bytes, call.boxes.d_rows, &params->d);
  if (p.scaling == jit::Scaling::k1d1d) return;  // its tiles leave by the map alone
  params->d_rows = d;
  params->ldd = o.ldd;
  params->d_group_stride = call.sizes.d_group_stride;
}

void fill_scales(const GemmCall& call, device::GemmParams* params) {
  const jit::Problem& p = call.problem;
  const kiln_operands& o = call.operands;
  const LaunchSizes& s = call.sizes;
  const std::int64_t blocks = jit::scale_blocks(s.k);
  if (p.sfa_major == jit::ScaleMajor::kM) {
    const bool masked = p.layout == Layout::kGroupedMasked;
    MatrixView sfa{o.sfa, blocks, o.m, o.ld_sfa, masked ? p.groups : 0, s.sfa_group_stride};
    if (s.k == 0) [[unlikely]]
      sfa = unread_input(o);
    encode_scales(call.driver, "sfa", sfa, call.boxes.sfa_cols, call.boxes.k_blocks, &params->sfa);
  } else {
    params->sfa_rows = o.sfa;
    params->ld_sfa = o.ld_sfa;
    params->sfa_group_stride = s.sfa_group_stride;
  }
  if (p.scaling == jit::Scaling::k1d1d) {
    MatrixView sfb{o.sfb, blocks, p.n, o.ld_sfb};
    if (s.k == 0) [[unlikely]]
      sfb = unread_input(o);
    encode_scales(call.driver, "sfb", sfb, call.boxes.sfb_cols, 1, &params->sfb);
    params->k_blocks = static_cast<std::uint32_t>(blocks);
  } else {
    params->sfb_blocks = o.sfb;
    params->ld_sfb = o.ld_sfb;
    params->sfb_group_stride = s.sfb_group_stride;
  }
}

// `count` groups from `first` on, all but A and B.
void fill_common(const GemmCall& call, std::int32_t first, std::int32_t count,
                 device::GemmParams* params) {
  const kiln_operands& o = call.operands;
  fill_output(call, first, params);
  fill_scales(call, params);
  params->grouping = o.grouping;
  params->expert_map = o.expert_map == nullptr ? nullptr : o.expert_map + first;
  params->m = static_cast<std::uint32_t>(o.m);
  params->groups = static_cast<std::uint32_t>(count);
  params->alignment = static_cast<std::uint32_t>(call.problem.alignment);
  params->zero_padding = (o.flags & KILN_LAUNCH_ZERO_PADDING) != 0 ? 1 : 0;
}

}  // namespace

MapBoxes map_boxes(const jit::Problem& problem, const jit::Tile& tile) {
  const auto block_m = static_cast<std::uint32_t>(tile.block_m);
  const auto block_n = static_cast<std::uint32_t>(tile.block_n);
  return {device::a_box_rows(block_m, static_cast<std::uint32_t>(tile.cluster_n),
                             jit::has_row_groups(problem)),
          block_n / static_cast<std::uint32_t>(tile.cluster_m),
          block_m,
          block_n,
          jit::layout_of(tile, problem).d_chunk_bytes,
          device::d_box_rows(block_m),
          static_cast<std::uint32_t>(tile.stage_blocks)};
}

void fill_params(const GemmCall& call, device::GemmParams* params) {
  fill_ab(call, params);
  fill_common(call, 0, call.problem.groups, params);
}

void fill_params(const GemmCall& call, std::int32_t first, std::int32_t count,
                 device::PackedGemmParams* params) {
  const kiln_operands& o = call.operands;
  fill_common(call, first, count, &params->gemm);
  std::int64_t k_begin = 0;
  for (std::int32_t g = 0; g < first; ++g) k_begin += o.host_group_k[g];
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int64_t k = o.host_group_k[first + i];
    MatrixView a{static_cast<const char*>(o.a) + o.m * k_begin, o.m, k, k};
    MatrixView b{static_cast<const char*>(o.b) + call.problem.n * k_begin, call.problem.n, k, k};
    if (k == 0) a = b = unread_input(o);
    encode_fp8(call.driver, "a", a, call.boxes.a_rows, 1, &params->a[i]);
    encode_fp8(call.driver, "b", b, call.boxes.b_rows, 1, &params->b[i]);
    params->k_begin[i] = static_cast<std::uint32_t>(k_begin / jit::kScaleBlock);
    params->k_blocks[i] = static_cast<std::uint32_t>(k / jit::kScaleBlock);
    k_begin += k;
  }
}

}  // namespace kiln::runtime
