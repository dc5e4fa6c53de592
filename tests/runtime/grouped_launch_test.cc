// kiln_launch of the grouped layouts and of 1d1d on the fake driver: parameters, tensor maps and
// grids of every layout and form, and which plans share their kernels.
#include <vector>

#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

using device::GemmParams;
using device::PackedGemmParams;

// 128 x 64: D of 256 x 512 has 2 x 8 tiles.
const kiln_tile kTile = tile_of(128, 64, 2, 1, 1, 1);

struct GroupedFixture : LaunchFixture {
  explicit GroupedFixture(const kiln_problem& problem)
      : LaunchFixture(KILN_MISS_BLOCK, problem, &kTile) {}
  GemmParams params_after(const kiln_operands& operands) const {
    const kiln_status status = launch(operands);
    INFO(kiln_last_error());
    REQUIRE(status == KILN_OK);
    return launched_params<GemmParams>(cuda);
  }
};

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

bool is_matrix(const FakeTensorMap& map, std::uintptr_t at, std::uint64_t cols, std::uint64_t rows,
               std::uint64_t stride_bytes) {
  return map.rank == 2 && map.address == at && map.extents[0] == cols && map.extents[1] == rows &&
         map.stride_bytes == stride_bytes;
}

bool is_sliced(const FakeTensorMap& map, std::uintptr_t at, std::uint64_t cols, std::uint64_t rows,
               std::uint64_t stride_bytes, std::uint64_t slices, std::uint64_t slice_bytes) {
  return map.rank == 3 && map.address == at && map.extents[0] == cols && map.extents[1] == rows &&
         map.stride_bytes == stride_bytes && map.extents[2] == slices &&
         map.slice_stride_bytes == slice_bytes && map.box[2] == 1;
}

bool is_zero(const device::TensorMap& map) {
  for (const char byte : map.bytes)
    if (byte != 0) return false;
  return true;
}

// How often a kernel was compiled for these problems, one after the other, with the same tile.
int kernels_of(const std::vector<kiln_problem>& problems) {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  for (const kiln_problem& problem : problems)
    REQUIRE(kiln_plan_prepare(make_plan(engine, problem, &kTile).get(), 0, INT64_MAX) == KILN_OK);
  return machine.toolchain->compiles;
}

}  // namespace

TEST_CASE("grouped_contiguous: one A and D, a slice of B per expert, a bound as the grid",
          "[runtime]") {
  for (const int form : {KILN_GROUPS_LABELS, KILN_GROUPS_ENDS}) {
    const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, form);
    const GroupedFixture f(problem);
    kiln_operands o = grouped_operands(problem);
    o.ldd = 520;
    const GemmParams p = f.params_after(o);
    CHECK(is_matrix(encoded(p.a), address(o.a), 1024, 256, 1024));
    CHECK((encoded(p.a).box[0] == 128 && encoded(p.a).box[1] == 64));  // a wave of rows
    CHECK(is_sliced(encoded(p.b), address(o.b), 1024, 512, 1024, 4, 512 * 1024));
    CHECK(encoded(p.b).box[1] == 64);
    CHECK(is_matrix(encoded(p.d), address(o.d), 512, 256, 520 * 2));
    CHECK((is_zero(p.sfa) && is_zero(p.sfb)));
    CHECK((p.sfa_rows == o.sfa && p.ld_sfa == 8 && p.sfa_group_stride == 0));
    CHECK((p.sfb_blocks == o.sfb && p.ld_sfb == 8 && p.sfb_group_stride == 4 * 8));
    CHECK((p.d_rows == o.d && p.ldd == 520 && p.d_group_stride == 0));
    CHECK((p.grouping == o.grouping && p.expert_map == nullptr));
    CHECK((p.m == 256 && p.groups == 4 && p.num_slices == 4 && p.alignment == 128));
    CHECK((p.num_tiles == 0 && p.k_blocks == 0 && p.zero_padding == 0));
    CHECK(f.cuda.last_launch.grid_x == (2 + 4) * 8);  // each group may end inside a tile
  }
}

TEST_CASE("grouped_contiguous: strides, an expert map, M-major scales and zeroed padding",
          "[runtime]") {
  kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_ENDS);
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  problem.alignment = 1;
  problem.d_type = KILN_TYPE_F32;
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem, 250);
  o.b_group_stride = 512 * 1024 + 16;
  o.sfb_group_stride = 33;
  o.expert_map = array_at(0x70000004);
  o.num_slices = 3;
  o.flags = KILN_LAUNCH_ZERO_PADDING | KILN_LAUNCH_PROGRAMMATIC;
  o.num_sms = 20;
  const GemmParams p = f.params_after(o);
  CHECK(is_sliced(encoded(p.b), address(o.b), 1024, 512, 1024, 3, 512 * 1024 + 16));
  CHECK(is_matrix(encoded(p.sfa), address(o.sfa), 250, 8, 252 * 4));
  CHECK((encoded(p.sfa).box[0] == 128 && encoded(p.sfa).box[1] == 1));
  CHECK((p.sfa_rows == nullptr && p.ld_sfa == 0));
  CHECK(p.sfb_group_stride == 33);
  CHECK((p.expert_map == o.expert_map && p.num_slices == 3 && p.groups == 4));
  CHECK((p.alignment == 1 && p.zero_padding == 1));
  CHECK(f.cuda.last_launch.programmatic);
  CHECK(f.cuda.last_launch.grid_x == 20);
}

TEST_CASE("grouped_masked: a slice of A, D and M-major scales per group, of B per expert",
          "[runtime]") {
  kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem, 200);
  o.ld_sfa = 208;
  o.expert_map = array_at(0x70000000);
  o.num_slices = 7;
  GemmParams p = f.params_after(o);
  CHECK(is_sliced(encoded(p.a), address(o.a), 1024, 200, 1024, 4, 200 * 1024));
  CHECK(is_sliced(encoded(p.b), address(o.b), 1024, 512, 1024, 7, 512 * 1024));
  CHECK(is_sliced(encoded(p.d), address(o.d), 512, 200, 1024, 4, 200 * 1024));
  CHECK(is_sliced(encoded(p.sfa), address(o.sfa), 200, 8, 208 * 4, 4, 8 * 208 * 4));
  CHECK((p.sfb_blocks == o.sfb && p.sfb_group_stride == 4 * 8));
  CHECK((p.d_rows == o.d && p.ldd == 512 && p.d_group_stride == 200 * 512));
  CHECK((p.grouping == o.grouping && p.expert_map == o.expert_map));
  CHECK((p.m == 200 && p.groups == 4 && p.num_slices == 7));
  CHECK((p.num_tiles == 0 && p.alignment == 0));
  CHECK(f.cuda.last_launch.grid_x == 4 * 2 * 8);

  o.a_group_stride = 1 << 20;
  o.sfa_group_stride = 8 * 208 + 4;
  o.d_group_stride = 200 * 512 + 8;
  p = f.params_after(o);
  CHECK(encoded(p.a).slice_stride_bytes == 1 << 20);
  CHECK(encoded(p.sfa).slice_stride_bytes == (8 * 208 + 4) * 4);
  CHECK(encoded(p.d).slice_stride_bytes == (200 * 512 + 8) * 2);
  CHECK(p.d_group_stride == 200 * 512 + 8);
}

TEST_CASE("grouped_masked: row-major scales of a group follow those of the one before",
          "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem, 200);
  o.ld_sfa = 9;
  CHECK(f.params_after(o).sfa_group_stride == 200 * 9);
  o.sfa_group_stride = 1999;
  const GemmParams p = f.params_after(o);
  CHECK((p.sfa_rows == o.sfa && p.ld_sfa == 9 && p.sfa_group_stride == 1999));
  CHECK(is_zero(p.sfa));
}

TEST_CASE("grouped_masked: slices may interleave, so that a row of all groups lies together",
          "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem);
  o.ldd = 4 * 512;
  o.d_group_stride = 512;
  o.lda = 4 * 1024;
  o.a_group_stride = 1024;
  const GemmParams p = f.params_after(o);
  CHECK(is_sliced(encoded(p.d), address(o.d), 512, 256, 4 * 1024, 4, 1024));
  CHECK(is_sliced(encoded(p.a), address(o.a), 1024, 256, 4 * 1024, 4, 1024));
}

TEST_CASE("grouped_masked: the tile is that of expected_m, not of the room for rows", "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  LaunchFixture f(KILN_MISS_BLOCK, problem);
  kiln_operands o = grouped_operands(problem, 8192);
  for (const std::int64_t expected : {1, 100, 8192}) {
    o.expected_m = expected;
    REQUIRE(f.launch(o) == KILN_OK);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(f.plan.get(), expected, &description) == KILN_OK);
    CHECK(description.ready == 1);
    CHECK(std::string(description.reason).find("for expected_m in [") != std::string::npos);
    CHECK(f.cuda.last_launch.smem_bytes == description.dynamic_smem_bytes);
    const auto p = launched_params<GemmParams>(f.cuda);
    CHECK(encoded(p.b).box[1] ==
          static_cast<unsigned>(description.tile.block_n / description.tile.cluster_m));
  }
}

TEST_CASE("dense 1d1d: both scales through maps, K from the launch or from the plan", "[runtime]") {
  kiln_problem problem = dense_1d1d();
  problem.d_type = KILN_TYPE_F32;
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem, 250);
  o.k = 4000;
  GemmParams p = f.params_after(o);
  CHECK(is_matrix(encoded(p.a), address(o.a), 4000, 250, 4096));
  CHECK(encoded(p.a).box[1] == 128);
  CHECK(is_matrix(encoded(p.b), address(o.b), 4000, 512, 4096));
  CHECK(is_matrix(encoded(p.d), address(o.d), 512, 250, 2048));
  CHECK(is_matrix(encoded(p.sfa), address(o.sfa), 250, 32, 252 * 4));
  CHECK(is_matrix(encoded(p.sfb), address(o.sfb), 512, 32, 512 * 4));
  CHECK((encoded(p.sfb).box[0] == 64 && encoded(p.sfb).box[1] == 1));
  CHECK((p.k_blocks == 32 && p.num_tiles == 16 && p.m == 250 && p.groups == 1));
  CHECK((p.sfa_rows == nullptr && p.sfb_blocks == nullptr && p.d_rows == nullptr));
  CHECK((p.grouping == nullptr && p.expert_map == nullptr));
  CHECK(f.cuda.last_launch.grid_x == 16);
  o.k = -1;
  p = f.params_after(o);
  CHECK((p.k_blocks == 8 && encoded(p.a).extents[0] == 1024));
}

TEST_CASE("grouped_k with ends: one A and B, a slice of D per group or expert", "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_ENDS);
  const GroupedFixture f(problem);
  kiln_operands o = grouped_operands(problem);
  GemmParams p = f.params_after(o);
  CHECK(is_matrix(encoded(p.a), address(o.a), 4096, 256, 4096));
  CHECK(is_matrix(encoded(p.b), address(o.b), 4096, 512, 4096));
  CHECK(is_matrix(encoded(p.sfa), address(o.sfa), 256, 32, 1024));
  CHECK(is_matrix(encoded(p.sfb), address(o.sfb), 512, 32, 2048));
  CHECK(is_sliced(encoded(p.d), address(o.d), 512, 256, 1024, 4, 256 * 1024));
  CHECK((p.grouping == o.grouping && p.expert_map == nullptr));
  CHECK((p.groups == 4 && p.num_slices == 4 && p.k_blocks == 32 && p.num_tiles == 4 * 16));
  CHECK((p.d_rows == nullptr && p.d_group_stride == 0));
  CHECK(f.cuda.last_launch.grid_x == 4 * 16);

  o.expert_map = array_at(0x70000000);
  o.num_slices = 9;
  o.d_group_stride = 256 * 512 + 8;
  p = f.params_after(o);
  CHECK(is_sliced(encoded(p.d), address(o.d), 512, 256, 1024, 9, (256 * 512 + 8) * 2));
  CHECK((p.expert_map == o.expert_map && p.num_slices == 9 && p.groups == 4));
}

TEST_CASE("grouped_k packed: a map per group, one after the other without gaps", "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED);
  const GroupedFixture f(problem);
  const std::int32_t sizes[] = {256, 0, 1024, 128};
  kiln_operands o = grouped_operands(problem, 200);
  o.host_group_k = sizes;
  REQUIRE(f.launch(o) == KILN_OK);
  CHECK(f.cuda.launches == 1);
  CHECK(f.cuda.last_launch.grid_x == 4 * 16);
  const auto p = launched_params<PackedGemmParams>(f.cuda);
  CHECK((is_zero(p.gemm.a) && is_zero(p.gemm.b)));
  CHECK((p.gemm.groups == 4 && p.gemm.num_slices == 4 && p.gemm.k_blocks == 11));
  CHECK((p.gemm.num_tiles == 4 * 16 && p.gemm.m == 200 && p.gemm.grouping == nullptr));
  CHECK(is_matrix(encoded(p.gemm.sfa), address(o.sfa), 200, 11, 200 * 4));
  CHECK(is_matrix(encoded(p.gemm.sfb), address(o.sfb), 512, 11, 512 * 4));
  CHECK(is_sliced(encoded(p.gemm.d), address(o.d), 512, 200, 1024, 4, 200 * 1024));
  std::uint64_t before = 0;
  for (int g = 0; g < 4; ++g) {
    const auto k = static_cast<std::uint64_t>(sizes[g]);
    INFO(g);
    CHECK((p.k_begin[g] == before / 128 && p.k_blocks[g] == k / 128));
    if (k != 0) {
      CHECK(is_matrix(encoded(p.a[g]), address(o.a) + 200 * before, k, 200, k));
      CHECK(is_matrix(encoded(p.b[g]), address(o.b) + 512 * before, k, 512, k));
    } else {
      CHECK(is_matrix(encoded(p.a[g]), address(o.d), 16, 1, 16));  // valid and never read
    }
    before += k;
  }
}

TEST_CASE("grouped_k packed: 97 groups are a launch of 96 and a launch of one", "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED, 97);
  const GroupedFixture f(problem);
  std::vector<std::int32_t> sizes(97);
  for (std::size_t g = 0; g < sizes.size(); ++g) sizes[g] = static_cast<std::int32_t>(g % 3) * 128;
  const std::uint64_t before_last = 96 * 128;  // their mean is 128
  kiln_operands o = grouped_operands(problem);
  o.host_group_k = sizes.data();
  o.k = 96 * 128;  // and the last is empty
  REQUIRE(f.launch(o) == KILN_OK);
  REQUIRE(f.cuda.launches == 2);
  auto first = params_of<PackedGemmParams>(f.cuda.history[0]);
  auto last = params_of<PackedGemmParams>(f.cuda.history[1]);
  CHECK((f.cuda.history[0].grid_x == 132 && f.cuda.history[1].grid_x == 16));
  CHECK((first.gemm.groups == 96 && last.gemm.groups == 1));
  CHECK((first.gemm.num_tiles == 96 * 16 && last.gemm.num_tiles == 16));
  CHECK((first.k_begin[95] == 94 && first.k_blocks[95] == 2));
  CHECK((last.k_begin[0] == 96 && last.k_blocks[0] == 0));
  CHECK(is_sliced(encoded(first.gemm.d), address(o.d), 512, 256, 1024, 97, 256 * 1024));
  CHECK(is_sliced(encoded(last.gemm.d), address(o.d) + 96 * 256 * 1024, 512, 256, 1024, 1,
                  256 * 1024));
  CHECK((first.gemm.num_slices == 97 && last.gemm.num_slices == 1));
  CHECK((first.gemm.k_blocks == 96 && last.gemm.k_blocks == 96));

  // A map names slices of all of D.
  sizes[96] = 384;
  o.k = -1;
  o.expert_map = array_at(0x70000000);
  o.num_slices = 200;
  REQUIRE(f.launch(o) == KILN_OK);
  REQUIRE(f.cuda.launches == 4);
  first = params_of<PackedGemmParams>(f.cuda.history[2]);
  last = params_of<PackedGemmParams>(f.cuda.history[3]);
  CHECK(first.gemm.expert_map == o.expert_map);
  CHECK(last.gemm.expert_map == o.expert_map + 96);
  CHECK((first.gemm.num_slices == 200 && last.gemm.num_slices == 200));
  CHECK(is_sliced(encoded(last.gemm.d), address(o.d), 512, 256, 1024, 200, 256 * 1024));
  CHECK(is_matrix(encoded(last.a[0]), address(o.a) + 256 * before_last, 384, 256, 384));
}

TEST_CASE("without K the inputs may be anything: D becomes zeros, or stays when accumulating",
          "[runtime]") {
  const std::vector<std::int32_t> no_sizes(4);
  for (const bool accumulate : {false, true}) {
    for (kiln_problem problem :
         {dense_1d1d(), grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_ENDS),
          grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED)}) {
      problem.accumulate = accumulate ? 1 : 0;
      const GroupedFixture f(problem);
      kiln_operands o = grouped_operands(problem);
      o.k = 0;
      o.a = o.b = nullptr;
      o.sfa = o.sfb = nullptr;
      o.lda = o.ldb = o.ld_sfa = o.ld_sfb = 0;
      if (problem.group_form == KILN_GROUPS_PACKED) o.host_group_k = no_sizes.data();
      const kiln_status status = f.launch(o);
      INFO(kiln_last_error());
      REQUIRE(status == KILN_OK);
      CHECK(f.cuda.launches == (accumulate ? 0 : 1));
      CHECK(f.toolchain->compiles == (accumulate ? 0 : 1));
      if (accumulate) continue;
      GemmParams p;  // a PackedGemmParams begins with one
      std::memcpy(static_cast<void*>(&p), f.cuda.last_launch.params.data(), sizeof(p));
      CHECK((p.k_blocks == 0 && p.num_tiles != 0));
      CHECK(is_matrix(encoded(p.sfa), address(o.d), 16, 1, 64));
      CHECK(is_matrix(encoded(p.sfb), address(o.d), 16, 1, 64));
      if (problem.group_form != KILN_GROUPS_PACKED)
        CHECK(is_matrix(encoded(p.a), address(o.d), 16, 1, 16));
    }
  }
}

TEST_CASE("an empty M succeeds and enqueues nothing in every layout", "[runtime]") {
  for (const kiln_problem& problem :
       {dense_1d1d(), grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_LABELS),
        grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS),
        grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_ENDS),
        grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED)}) {
    const LaunchFixture f(KILN_MISS_BLOCK, problem, &kTile, KILN_CHECK_ON);
    const kiln_operands o = KILN_OPERANDS_INIT;
    CHECK(f.launch(o) == KILN_OK);
    CHECK(f.cuda.launches == 0);
    CHECK(f.toolchain->compiles == 0);
  }
}

TEST_CASE("row groups of more tiles than the device can count are refused", "[runtime]") {
  kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS, 1024);
  problem.n = 1'000'000;
  const LaunchFixture masked(KILN_MISS_BLOCK, problem, &kTile);
  kiln_operands o = grouped_operands(problem, 100'000);
  o.ldd = problem.n;
  CHECK(masked.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("in D of 1024 groups, got m = 100000"));

  problem = grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_ENDS, 1024);
  problem.n = 1'000'000'000;  // 15,625,000 tiles
  const LaunchFixture contiguous(KILN_MISS_BLOCK, problem, &kTile);
  o = grouped_operands(problem, 128);
  o.ldd = problem.n;
  CHECK(contiguous.launch(o) == KILN_ERROR_INVALID_ARGUMENT);  // one of them for each group
  CHECK(error_mentions("at most 2^31-1 tiles"));
  CHECK(contiguous.cuda.launches == 0);
}

TEST_CASE("plans that differ in what a kernel takes at run time share it", "[runtime]") {
  const auto contiguous = [](int groups, int alignment, int form = KILN_GROUPS_ENDS) {
    kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, form, groups);
    problem.alignment = alignment;
    return problem;
  };
  CHECK(kernels_of({contiguous(1, 1), contiguous(64, 128), contiguous(17, 1024)}) == 1);
  CHECK(kernels_of({contiguous(64, 128), contiguous(65, 128), contiguous(256, 1),
                    contiguous(257, 1), contiguous(1024, 1)}) == 3);  // room for 64, 256 and 1024
  CHECK(kernels_of({contiguous(4, 128), contiguous(4, 128, KILN_GROUPS_LABELS)}) == 2);

  const auto with_k = [](kiln_problem problem, std::int64_t k) {
    problem.k = k;
    return problem;
  };
  const auto wgrad = [](int groups, int form = KILN_GROUPS_ENDS) {
    return grouped_problem(KILN_LAYOUT_GROUPED_K, form, groups);
  };
  CHECK(kernels_of({dense_1d1d(), with_k(dense_1d1d(), 16), with_k(dense_1d1d(), 65536)}) == 1);
  CHECK(kernels_of({wgrad(1), wgrad(1024), with_k(wgrad(96), 256)}) == 1);
  CHECK(kernels_of({wgrad(4), wgrad(4, KILN_GROUPS_PACKED), dense_1d1d()}) == 3);
  CHECK(kernels_of({small_problem(), with_k(small_problem(), 2048)}) == 2);  // K is a constant here
}

TEST_CASE("plans that share a kernel also share its cache entry", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();
  const auto key_after_prepare = [&](int groups) {
    const EngineHandle engine = make_engine(machine, options);
    const PlanHandle plan = make_plan(
        engine, grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS, groups), &kTile);
    REQUIRE(kiln_plan_prepare(plan.get(), 0, INT64_MAX) == KILN_OK);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(plan.get(), 1, &description) == KILN_OK);
    CHECK(description.ready == 1);
    return std::string(description.key);
  };
  CHECK(key_after_prepare(8) == key_after_prepare(32));
  CHECK(machine.toolchain->compiles == 1);
}

}  // namespace kiln::test
