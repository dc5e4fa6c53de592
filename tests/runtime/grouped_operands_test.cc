// Operands of the grouped layouts and of 1d1d that kiln_launch refuses: field, value, rule and
// remedy in the message, and nothing enqueued.
#include <functional>
#include <limits>
#include <vector>

#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

struct Case {
  const char* words;
  std::function<void(kiln_operands&)> change;
};

const void* at(std::uintptr_t address) { return reinterpret_cast<const void*>(address); }
const float* scales_at(std::uintptr_t address) { return static_cast<const float*>(at(address)); }

// Each case changes good operands of the problem.
void check_refused(const kiln_problem& problem, const kiln_operands& good,
                   const std::vector<Case>& cases) {
  const LaunchFixture f(KILN_MISS_BLOCK, problem);
  for (const Case& test : cases) {
    kiln_operands o = good;
    test.change(o);
    INFO(test.words);
    CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
  }
  CHECK(f.cuda.launches == 0);
  CHECK(f.toolchain->compiles == 0);
  const kiln_status status = f.launch(good);
  INFO(kiln_last_error());
  CHECK(status == KILN_OK);
}

void check_refused(const kiln_problem& problem, const std::vector<Case>& cases) {
  check_refused(problem, grouped_operands(problem), cases);
}

}  // namespace

TEST_CASE("dense refuses every field that belongs to the grouped layouts", "[runtime]") {
  static const std::int32_t sizes[] = {128};
  check_refused(
      small_problem(),
      {{"grouping must be left at its default for layout dense (it belongs to labels, ends and "
        "rows), got 0x60000000",
        [](auto& o) { o.grouping = array_at(0x60000000); }},
       {"expert_map must be left at its default for layout dense",
        [](auto& o) { o.expert_map = array_at(0x60000000); }},
       {"num_slices must be left at its default for layout dense (it belongs to the grouped "
        "layouts), got 2",
        [](auto& o) { o.num_slices = 2; }},
       {"host_group_k must be left", [](auto& o) { o.host_group_k = sizes; }},
       {"expected_m must be left at its default for layout dense (it belongs to grouped_masked), "
        "got 7",
        [](auto& o) { o.expected_m = 7; }},
       {"a_group_stride must be left", [](auto& o) { o.a_group_stride = 16; }},
       {"b_group_stride must be left", [](auto& o) { o.b_group_stride = 16; }},
       {"sfa_group_stride must be left", [](auto& o) { o.sfa_group_stride = 4; }},
       {"sfb_group_stride must be left", [](auto& o) { o.sfb_group_stride = -4; }},
       {"d_group_stride must be left", [](auto& o) { o.d_group_stride = 8; }},
       {"reserved must be left", [](auto& o) { o.reserved = 1; }},
       {"k must be -1 or the plan's 1024 for scaling 1d2d (a constant of its kernels), got 1008: "
        "create a plan for that k",
        [](auto& o) { o.k = 1008; }},
       {"k must be -1 or the plan's 1024", [](auto& o) { o.k = 0; }},
       {"flags must not have KILN_LAUNCH_ZERO_PADDING for layout dense (zeros are for the padding "
        "of grouped_contiguous without accumulation), got 0x2",
        [](auto& o) { o.flags = KILN_LAUNCH_ZERO_PADDING; }}});
  kiln_operands o = good_operands();
  o.k = 1024;
  CHECK(LaunchFixture().launch(o) == KILN_OK);
}

TEST_CASE("dense 1d1d refuses a K that it cannot load and scales that are not M-major",
          "[runtime]") {
  check_refused(
      dense_1d1d(),
      {{"k must be in 0..2147483136", [](auto& o) { o.k = -2; }},
       {"k must be in 0..2147483136", [](auto& o) { o.k = kHuge; }},
       {"k must be a multiple of 16 (FP8 rows are loaded in 16-byte units), got 4001: pad it to "
        "4016",
        [](auto& o) { o.k = 4001; }},
       {"lda must be at least 4112 (the length of one row of a), got 4096",
        [](auto& o) { o.k = 4112; }},
       {"ldb must be at least 4096", [](auto& o) { o.ldb = 4080; }},
       {"a must be a device pointer, got null", [](auto& o) { o.a = nullptr; }},
       {"sfa must be aligned to 16 bytes", [](auto& o) { o.sfa = scales_at(0x30000004); }},
       {"ld_sfa must be at least 256", [](auto& o) { o.ld_sfa = 252; }},
       {"sfb must be aligned to 16 bytes", [](auto& o) { o.sfb = scales_at(0x40000004); }},
       {"ld_sfb must be at least 512", [](auto& o) { o.ld_sfb = 32; }},
       {"ld_sfb must be a multiple of 4", [](auto& o) { o.ld_sfb = 514; }},
       {"d must be a device pointer, got null", [](auto& o) { o.k = 0, o.d = nullptr; }},
       {"grouping must be left", [](auto& o) { o.grouping = array_at(0x60000000); }}});
}

TEST_CASE("grouped_contiguous refuses wrong groups, slices and strides", "[runtime]") {
  const std::vector<Case> cases = {
      {"grouping must be a device pointer to ", [](auto& o) { o.grouping = nullptr; }},
      {"grouping must be aligned to 4 bytes", [](auto& o) { o.grouping = array_at(0x60000002); }},
      {"expert_map must be aligned to 4 bytes (the slice of each group, int32), got 0x70000001",
       [](auto& o) { o.expert_map = array_at(0x70000001); }},
      {"num_slices must be in 0..2147483647", [](auto& o) { o.num_slices = -1; }},
      {"num_slices must be at least the plan's 4 groups without expert_map (group g uses slice g), "
       "got 3: give an expert_map, or all slices",
       [](auto& o) { o.num_slices = 3; }},
      {"m must be a multiple of the plan's alignment, 128, got 200: pad A, SFA and D to 256 rows, "
       "or "
       "create the plan with alignment 1",
       [](auto& o) { o.m = 200; }},
      {"b_group_stride must be 0 (slices of b without gaps) or a positive multiple of 16, got -16",
       [](auto& o) { o.b_group_stride = -16; }},
      {"b_group_stride must be 0", [](auto& o) { o.b_group_stride = 8; }},
      {"b_group_stride must be below 1099511627776",
       [](auto& o) { o.b_group_stride = std::int64_t{1} << 40; }},
      {"b: 2147483647 slices, 1099511627760 apart",
       [](auto& o) {
         o.b_group_stride = (std::int64_t{1} << 40) - 16, o.num_slices = 2'147'483'647;
       }},
      {"b: 512 rows of 1024 elements", [](auto& o) { o.b = at(0x7fff'ffff'ffff'fff0); }},
      {"sfb_group_stride must be 0", [](auto& o) { o.sfb_group_stride = -1; }},
      {"sfb_group_stride must be below 274877906944", [](auto& o) { o.sfb_group_stride = kHuge; }},
      {"b must be a device pointer, got null", [](auto& o) { o.b = nullptr; }},
      {"sfb must be a device pointer, got null", [](auto& o) { o.sfb = nullptr; }},
      {"ldd must be at least 512", [](auto& o) { o.ldd = 504; }},
      {"k must be -1 or the plan's 1024", [](auto& o) { o.k = 4096; }},
      {"expected_m must be left at its default for layout grouped_contiguous",
       [](auto& o) { o.expected_m = 1; }},
      {"a_group_stride must be left", [](auto& o) { o.a_group_stride = 1024; }},
      {"sfa_group_stride must be left", [](auto& o) { o.sfa_group_stride = 8; }},
      {"d_group_stride must be left at its default", [](auto& o) { o.d_group_stride = 8; }},
  };
  for (const int form : {KILN_GROUPS_LABELS, KILN_GROUPS_ENDS})
    check_refused(grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, form), cases);
  kiln_problem accumulating = grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_ENDS);
  accumulating.accumulate = 1;
  check_refused(accumulating,
                {{"flags must not have KILN_LAUNCH_ZERO_PADDING for layout grouped_contiguous with "
                  "accumulate",
                  [](auto& o) { o.flags = KILN_LAUNCH_ZERO_PADDING | KILN_LAUNCH_PROGRAMMATIC; }}});
}

TEST_CASE("grouped_masked refuses a wrong hint, slices that overlap and wrong strides",
          "[runtime]") {
  kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  const std::vector<Case> cases = {
      {"expected_m must be in 1..256 (about how many rows a group has, at most m: it chooses the "
       "tile), got 0",
       [](auto& o) { o.expected_m = 0; }},
      {"expected_m must be in 1..256", [](auto& o) { o.expected_m = 257; }},
      {"expected_m must be in 1..256", [](auto& o) { o.expected_m = -1; }},
      {"grouping must be a device pointer to the valid rows of each group, int32, got null",
       [](auto& o) { o.grouping = nullptr; }},
      {"a_group_stride must be 0", [](auto& o) { o.a_group_stride = 1032; }},
      {"a: 4 slices, 262144 apart, of 256 rows of 1024 elements",  // the first one just fits
       [](auto& o) { o.a = at(0x7fff'ffff'ffff'fff0 - 256 * 1024); }},
      {"a_group_stride must be below 1099511627776 (slices are less than 2^40 bytes apart), got 0 "
       "for 2000000000 rows, 1024 apart",
       [](auto& o) { o.m = 2'000'000'000; }},
      {"d_group_stride must be 0 (slices of d without gaps) or a positive multiple of 8, got "
       "131076",
       [](auto& o) { o.d_group_stride = 131076; }},
      {"d_group_stride must keep the 4 slices of d apart: at least 131072 for 256 rows of 512 "
       "elements, 512 apart, got 131064",
       [](auto& o) { o.d_group_stride = 131064; }},
      {"d_group_stride must keep the 4 slices of d apart",  // interleaved, but one too few
       [](auto& o) { o.ldd = 3 * 512, o.d_group_stride = 512; }},
      {"d_group_stride must keep", [](auto& o) { o.d_group_stride = 8; }},
      {"flags must not have KILN_LAUNCH_ZERO_PADDING for layout grouped_masked",
       [](auto& o) { o.flags = KILN_LAUNCH_ZERO_PADDING; }},
      {"num_slices must be at least the plan's 4 groups", [](auto& o) { o.num_slices = 1; }},
      {"sfa_group_stride must be 0", [](auto& o) { o.sfa_group_stride = -8; }},
  };
  check_refused(problem, cases);
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  check_refused(problem, cases);
  check_refused(problem,
                {{"sfa_group_stride must be 0 (slices of sfa without gaps) or a positive multiple "
                  "of 4, got 2050",
                  [](auto& o) { o.sfa_group_stride = 2050; }}});
}

TEST_CASE("grouped_k with ends refuses a missing K, operands of other layouts and wrong slices",
          "[runtime]") {
  check_refused(
      grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_ENDS),
      {{"k must be the columns of A and B, all groups together, for layout grouped_k (the plan has "
        "that of one group), got -1",
        [](auto& o) { o.k = -1; }},
       {"k must be a multiple of 16", [](auto& o) { o.k = 100; }},
       {"grouping must be a device pointer to where each group ends",
        [](auto& o) { o.grouping = nullptr; }},
       {"host_group_k must be left at its default for layout grouped_k with group_form ends (it "
        "belongs to grouped_k with packed operands)",
        [](auto& o) { o.host_group_k = array_at(0x60000000); }},
       {"expected_m must be left", [](auto& o) { o.expected_m = 1; }},
       {"a_group_stride must be left", [](auto& o) { o.a_group_stride = 16; }},
       {"b_group_stride must be left", [](auto& o) { o.b_group_stride = 16; }},
       {"sfa_group_stride must be left", [](auto& o) { o.sfa_group_stride = 4; }},
       {"sfb_group_stride must be left", [](auto& o) { o.sfb_group_stride = 4; }},
       {"d_group_stride must keep the 4 slices of d apart",
        [](auto& o) { o.d_group_stride = 512; }},
       {"d_group_stride must keep the 9 slices of d apart",
        [](auto& o) { o.d_group_stride = 512, o.num_slices = 9, o.ldd = 8 * 512; }},
       {"num_slices must be at least the plan's 4 groups", [](auto& o) { o.num_slices = 3; }},
       {"expert_map must be aligned", [](auto& o) { o.expert_map = array_at(0x70000003); }},
       {"flags must not have", [](auto& o) { o.flags = KILN_LAUNCH_ZERO_PADDING; }},
       {"lda must be at least 4096", [](auto& o) { o.lda = 1024; }}});
}

TEST_CASE("grouped_k packed refuses sizes that are missing, negative, ragged or of another sum",
          "[runtime]") {
  static const std::int32_t good[] = {128, 0, 256, 128};
  static const std::int32_t negative[] = {128, -128, 256, 128};
  static const std::int32_t ragged[] = {128, 0, 200, 128};
  static const std::int32_t large[] = {1 << 30, 1 << 30, 128, 0};
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED);
  kiln_operands operands = grouped_operands(problem);
  operands.host_group_k = good;
  check_refused(
      problem, operands,
      {{"host_group_k must be a host pointer to K of each of the 4 groups, got null",
        [](auto& o) { o.host_group_k = nullptr; }},
       {"host_group_k[1] must be 0 or a positive multiple of 128 (one scale for each so many), got "
        "-128",
        [](auto& o) { o.host_group_k = negative; }},
       {"host_group_k[2] must be 0 or a positive multiple of 128 (one scale for each so many), got "
        "200: pad the group's A and B with zeros to 256",
        [](auto& o) { o.host_group_k = ragged; }},
       {"the sum of host_group_k must be in 0..2147483136 (k-blocks are counted in 32 bits), got "
        "2147483776",
        [](auto& o) { o.host_group_k = large; }},
       {"k must be -1 or the sum of host_group_k, 512, got 511", [](auto& o) { o.k = 511; }},
       {"k must be -1 or the sum of host_group_k, 512, got -2", [](auto& o) { o.k = -2; }},
       {"grouping must be left at its default for layout grouped_k with group_form packed",
        [](auto& o) { o.grouping = array_at(0x60000000); }},
       {"lda must be left at its default for layout grouped_k with group_form packed (it belongs "
        "to "
        "operands that are not packed), got 512",
        [](auto& o) { o.lda = 512; }},
       {"ldb must be left at its default", [](auto& o) { o.ldb = 512; }},
       {"a must be a device pointer, got null", [](auto& o) { o.a = nullptr; }},
       {"a: 256 rows of 512 elements", [](auto& o) { o.a = at(0x7fff'ffff'ffff'fff0); }},
       {"b must be aligned to 16 bytes", [](auto& o) { o.b = at(0x20000008); }},
       {"ld_sfa must be at least 256", [](auto& o) { o.ld_sfa = 4; }},
       {"ld_sfb must be at least 512", [](auto& o) { o.ld_sfb = 4; }}});
  operands.k = 512;
  CHECK(LaunchFixture(KILN_MISS_BLOCK, problem).launch(operands) == KILN_OK);
}

TEST_CASE("accumulating into BF16 is a plan of its own kernels", "[runtime]") {
  kiln_problem problem = small_problem();
  LaunchFixture f(KILN_MISS_BLOCK, problem);
  REQUIRE(f.launch(good_operands()) == KILN_OK);
  const std::string stored = f.cuda.last_launch.kernel;
  problem.accumulate = 1;
  const PlanHandle adding = make_plan(f.engine, problem);
  const kiln_operands o = good_operands();
  REQUIRE(kiln_launch(adding.get(), &o, kStream) == KILN_OK);
  CHECK(f.cuda.last_launch.kernel != stored);
}

}  // namespace kiln::test
