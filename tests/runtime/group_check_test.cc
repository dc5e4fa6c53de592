// The debug check of group arrays: the rules themselves on host arrays, then through kiln_launch
// with arrays that the fake driver copies back.
#include "runtime/group_check.h"

#include <functional>
#include <vector>

#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

using Array = std::vector<std::int32_t>;

// "" when the check passes.
std::string message_of(const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
  return "";
}

std::string labels(const Array& values, int groups, int alignment) {
  return message_of([&] { runtime::check_labels(values, groups, alignment); });
}
std::string ends(const Array& values, std::int64_t extent, int alignment) {
  return message_of([&] { runtime::check_ends(values, extent, "m", alignment); });
}
std::string rows(const Array& values, std::int64_t m) {
  return message_of([&] { runtime::check_rows(values, m); });
}
std::string experts(const Array& values, int num_slices, bool distinct) {
  return message_of([&] { runtime::check_expert_map(values, num_slices, distinct); });
}

struct CheckedFixture : LaunchFixture {
  explicit CheckedFixture(const kiln_problem& problem)
      : LaunchFixture(KILN_MISS_BLOCK, problem, nullptr, KILN_CHECK_ON) {}
};

// Labels of the groups' sizes, each group padded to the alignment.
Array labels_of(const Array& sizes, std::size_t alignment) {
  Array result;
  for (std::size_t g = 0; g < sizes.size(); ++g) {
    result.insert(result.end(), static_cast<std::size_t>(sizes[g]), static_cast<std::int32_t>(g));
    result.resize((result.size() + alignment - 1) / alignment * alignment, -1);
  }
  return result;
}

}  // namespace

TEST_CASE("labels that are sorted, in range and aligned pass", "[runtime]") {
  CHECK(labels({}, 1, 128) == "");
  CHECK(labels({-1, -1}, 1, 1) == "");
  CHECK(labels({0, 0, 1, 3}, 4, 1) == "");
  CHECK(labels({-1, -5, 2, 2, -1, 3}, 4, 1) == "");  // any negative number is padding
  CHECK(labels({0, -1, -1, -1, 2, 2, 2, 2, 2, -1, -1, -1, 3}, 4, 4) == "");
  for (const std::size_t alignment : {1, 2, 64, 128, 1024})
    CHECK(labels(labels_of({0, 1, 127, 0, 128, 129, 0}, alignment), 7,
                 static_cast<int>(alignment)) == "");
}

TEST_CASE("the first label that breaks a rule is named with its value, rule and remedy",
          "[runtime]") {
  CHECK(labels({0, 1, 4, 9}, 4, 1) ==
        "grouping[2] must be below the plan's 4 groups, got 4: label each row with its group, and "
        "padding with -1");
  CHECK(labels({0, 2, 2, 1, 0}, 4, 1) ==
        "grouping[3] must not be below the label before it, 2, got 1: sort the rows by group");
  CHECK(labels({2, -1, 1}, 4, 1).find("grouping[2] must not be below the label before it, 2") == 0);
  CHECK(labels({0, 1, -1, -1, 1}, 4, 1) ==
        "grouping[4] must not return to group 1 behind the padding at row 2 (rows of one group "
        "follow each other), got 1: move the padding behind the group");
  CHECK(labels({0, 0, 0, 1, 1}, 4, 2) ==
        "grouping[3] must not begin group 1 here (groups begin at multiples of the plan's "
        "alignment, 2), got 1: pad with -1 up to row 4, or create the plan with alignment 1");
  CHECK(labels({-1, 0}, 4, 128).find("grouping[1] must not begin group 0 here") == 0);
}

TEST_CASE("ends pass when each group ends where it begins or later, or repeats the end before",
          "[runtime]") {
  CHECK(ends({0, 0, 0}, 0, 128) == "");
  CHECK(ends({1, 1, 128, 128, 512}, 512, 1) == "");
  CHECK(ends({100, 228, 228, 512}, 512, 128) == "");  // the third is empty
  CHECK(ends({100, 128, 256}, 512, 128) == "");       // empty, counted from its rounded beginning
  CHECK(ends({100, 300}, 300, 128) == "");
  CHECK(ends({2'147'483'136}, 2'147'483'136, 1024) == "");
}

TEST_CASE("the first end that breaks a rule is named with its value, rule and remedy",
          "[runtime]") {
  CHECK(ends({10, 513, 5}, 512, 1) ==
        "grouping[1] (the end of group 1) must be in 0..512 (m of this launch), got 513: give "
        "positions from the start, or a larger m");
  CHECK(ends({-1}, 512, 1).find("grouping[0] (the end of group 0) must be in 0..512") == 0);
  CHECK(ends({10, 300, 299}, 512, 1) ==
        "grouping[2] (the end of group 2) must not be below the end before it, 300, got 299: give "
        "positions from the start, not sizes");
  CHECK(
      ends({100, 101}, 512, 128) ==
      "grouping[1] (the end of group 1) must not be before 128, where the group begins (the "
      "previous end, 100, rounded up to the alignment, 128), got 101: round the beginning of each "
      "group up, and repeat the previous end for an empty one");
  CHECK(ends({100, 127}, 512, 128) != "");
}

TEST_CASE("valid rows are between none and m", "[runtime]") {
  CHECK(rows({0, 128, 1}, 128) == "");
  CHECK(rows({0, 129, -1}, 128) ==
        "grouping[1] (valid rows of group 1) must be in 0..128 (m of this launch), got 129: give "
        "how many of a group's first rows are valid");
  CHECK(rows({-1}, 128).find("grouping[0]") == 0);
}

TEST_CASE("an expert map names slices that exist, and for outputs none twice", "[runtime]") {
  CHECK(experts({0, 7, 7, 3}, 8, false) == "");
  CHECK(experts({0, 7, 3}, 8, true) == "");
  CHECK(experts({0, 8}, 8, false) ==
        "expert_map[1] (the slice of group 1) must be in 0..7 (num_slices - 1), got 8: number the "
        "slices from 0");
  CHECK(experts({-1}, 8, true).find("expert_map[0]") == 0);
  CHECK(experts({5, 2, 2, 5}, 8, true) ==
        "expert_map[2] must not name a slice of D that another group has (expert_map[1] does, and "
        "both groups would write it), got 2: give each group its own slice");
}

TEST_CASE("a checked launch refuses arrays that break the contract and enqueues nothing",
          "[runtime]") {
  struct Form {
    int layout, group_form;
    Array good, bad;
    const char* words;
  };
  const std::vector<Form> forms = {
      {KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_LABELS, labels_of({100, 0, 28, 0}, 128),
       labels_of({100, 0, 28, 0}, 1), "grouping[100] must not begin group 2"},
      {KILN_LAYOUT_GROUPED_CONTIGUOUS,
       KILN_GROUPS_ENDS,
       {100, 100, 200, 256},
       {1, 2, 3, 257},
       "grouping[1] (the end of group 1) must not be before 128"},
      {KILN_LAYOUT_GROUPED_MASKED,
       KILN_GROUPS_ROWS,
       {0, 256, 1, 2},
       {0, 1, 2, 257},
       "grouping[3] (valid rows of group 3) must be in 0..256 (m"},
      {KILN_LAYOUT_GROUPED_K,
       KILN_GROUPS_ENDS,
       {0, 100, 4096, 4096},
       {0, 100, 4096, 4097},
       "grouping[3] (the end of group 3) must be in 0..4096 (k"},
  };
  for (const Form& form : forms) {
    const kiln_problem problem = grouped_problem(form.layout, form.group_form);
    const CheckedFixture f(problem);
    const LaunchFixture unchecked(KILN_MISS_BLOCK, problem);
    kiln_operands o = grouped_operands(problem);
    Array bad = form.bad;
    Array good = form.good;
    bad.resize(std::max<std::size_t>(form.bad.size(), 4));
    if (form.group_form == KILN_GROUPS_LABELS) {
      good.resize(256, -1);
      bad.resize(256, -1);
    }
    INFO(form.words);
    o.grouping = bad.data();
    CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(form.words));
    CHECK(f.cuda.launches == 0);
    CHECK(unchecked.launch(o) == KILN_OK);
    o.grouping = good.data();
    CHECK(f.launch(o) == KILN_OK);
    const Array map = {3, 0, 4, 1};
    o.expert_map = map.data();
    CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("expert_map[2] (the slice of group 2) must be in 0..3"));
    o.num_slices = 5;
    CHECK(f.launch(o) == KILN_OK);
    const Array twice = {3, 0, 3, 1};
    o.expert_map = twice.data();
    const bool is_output = form.layout == KILN_LAYOUT_GROUPED_K;
    CHECK(f.launch(o) == (is_output ? KILN_ERROR_INVALID_ARGUMENT : KILN_OK));
  }
}

TEST_CASE("a checked packed launch checks the expert map, for its sizes are on the host",
          "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED);
  const CheckedFixture f(problem);
  const Array sizes = {128, 0, 0, 256}, map = {0, 1, 2, 2};
  kiln_operands o = grouped_operands(problem);
  o.host_group_k = sizes.data();
  CHECK(f.launch(o) == KILN_OK);
  CHECK(f.cuda.calls("cuMemcpyDtoHAsync") == 0);
  o.expert_map = map.data();
  CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("expert_map[3] must not name a slice of D that another group has"));
}

TEST_CASE("a checked launch waits for its own stream, and asks nothing of one being captured",
          "[runtime]") {
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  const CheckedFixture f(problem);
  const Array good = {1, 2, 3, 4}, bad = {1, 2, 3, 1000};
  kiln_operands o = grouped_operands(problem);
  o.grouping = good.data();
  REQUIRE(f.launch(o) == KILN_OK);
  CHECK(f.cuda.calls("cuMemcpyDtoHAsync") == 1);
  CHECK(f.cuda.calls("cuStreamSynchronize") == 1);

  f.cuda.capturing = kStream;
  o.grouping = bad.data();
  CHECK(f.launch(o) == KILN_OK);
  CHECK(f.cuda.calls("cuStreamSynchronize") == 1);
  CHECK_FALSE(f.cuda.capture_invalidated);

  f.cuda.capturing = reinterpret_cast<CUstream>(std::uintptr_t{0x999000});
  CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);  // another stream's capture does not matter
  CHECK_FALSE(f.cuda.capture_invalidated);
}

TEST_CASE("a dense launch is never checked, and no launch is when the option is off", "[runtime]") {
  const CheckedFixture dense(small_problem());
  REQUIRE(dense.launch(good_operands()) == KILN_OK);
  CHECK(dense.cuda.calls("cuStreamSynchronize") == 0);
  const kiln_problem problem = grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS);
  const LaunchFixture off(KILN_MISS_BLOCK, problem);
  REQUIRE(off.launch(grouped_operands(problem)) == KILN_OK);
  CHECK(off.cuda.calls("cuStreamSynchronize") == 0);
}

}  // namespace kiln::test
