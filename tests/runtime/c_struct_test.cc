// struct_size and struct_version across the C boundary: callers that are older or newer than the
// library.
#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

// A struct followed by room for fields of the future.
template <class T>
struct Larger {
  T known;
  std::uint64_t future = 0;
};

}  // namespace

TEST_CASE("a smaller struct gets defaults, a larger one must end in zeros", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  kiln_plan* plan = nullptr;
  const auto try_plan = [&](const kiln_problem* problem) {
    const kiln_status status = kiln_plan_create(engine.get(), problem, nullptr, &plan);
    kiln_plan_destroy(plan);
    return status;
  };
  Larger<kiln_problem> larger{small_problem()};
  larger.known.struct_size = sizeof(larger);
  CHECK(try_plan(&larger.known) == KILN_OK);
  larger.future = 1;
  CHECK(try_plan(&larger.known) == KILN_ERROR_UNSUPPORTED);
  CHECK(error_mentions("use a newer library"));

  kiln_problem smaller = small_problem();
  smaller.struct_size = offsetof(kiln_problem, a_type);
  smaller.a_type = smaller.accumulate = 77;  // beyond its size: must not be read
  CHECK(try_plan(&smaller) == KILN_OK);
  kiln_problem without_groups = small_problem();  // version 0.1's, whose last field was 0
  without_groups.struct_size = offsetof(kiln_problem, groups);
  without_groups.groups = without_groups.alignment = 77;
  CHECK(try_plan(&without_groups) == KILN_OK);

  for (const std::uint32_t size : {0u, 4u, 7u, 13u, 100'000u, 0xfffffffcu}) {
    kiln_problem wrong = small_problem();
    wrong.struct_size = size;
    CHECK(try_plan(&wrong) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("problem->struct_size"));
  }
  kiln_problem version = small_problem();
  version.struct_version = 0;
  CHECK(try_plan(&version) == KILN_ERROR_INVALID_ARGUMENT);
  version.struct_version = 2;
  CHECK(try_plan(&version) == KILN_ERROR_UNSUPPORTED);
}

TEST_CASE("smaller and larger results are filled as far as both sides know them", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  const PlanHandle plan = make_plan(engine);
  Larger<kiln_plan_description> larger{KILN_PLAN_DESCRIPTION_INIT, 7};
  larger.known.struct_size = sizeof(larger);
  REQUIRE(kiln_plan_describe(plan.get(), 1, &larger.known) == KILN_OK);
  CHECK(larger.known.struct_size == sizeof(larger));
  CHECK(larger.future == 0);
  CHECK(larger.known.threads > 0);

  kiln_plan_description smaller = KILN_PLAN_DESCRIPTION_INIT;
  smaller.struct_size = offsetof(kiln_plan_description, threads);
  smaller.threads = 77;
  REQUIRE(kiln_plan_describe(plan.get(), 1, &smaller) == KILN_OK);
  CHECK(smaller.threads == 77);
  CHECK(smaller.m_max > 0);

  kiln_plan_description failed = KILN_PLAN_DESCRIPTION_INIT;
  failed.threads = 77;
  CHECK(kiln_plan_describe(plan.get(), -1, &failed) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(failed.threads == 0);
  CHECK(failed.struct_size == sizeof(failed));
}

TEST_CASE("operands of a library without groups get the defaults of the new fields", "[runtime]") {
  LaunchFixture f;
  kiln_operands old = good_operands();
  old.struct_size = offsetof(kiln_operands, k);
  old.k = 77;  // behind its size: must not be read
  old.grouping = old.expert_map = array_at(3);
  old.num_slices = old.reserved = -1;
  old.expected_m = old.d_group_stride = -1;
  CHECK(f.launch(old) == KILN_OK);
  LaunchFixture with_k(KILN_MISS_BLOCK, dense_1d1d());
  old = grouped_operands(dense_1d1d());
  old.struct_size = offsetof(kiln_operands, k);
  CHECK(with_k.launch(old) == KILN_OK);
  CHECK(launched_params<device::GemmParams>(with_k.cuda).k_blocks == 8);  // the problem's
}

}  // namespace kiln::test
