// What the tests of launches share: an engine on the fakes with one plan, and what the driver saw.
#pragma once

#include <cstring>

#include "templates/params.cuh"
#include "tests/runtime/support.h"

namespace kiln::test {

template <class T>
T params_of(const FakeLaunch& launch) {
  T params;
  REQUIRE(launch.param_bytes == sizeof(T));
  std::memcpy(static_cast<void*>(&params), launch.params.data(), sizeof(T));
  return params;
}

template <class T>
T launched_params(const FakeCuda& cuda) {
  return params_of<T>(cuda.last_launch);
}

inline FakeTensorMap encoded(const device::TensorMap& map) {
  FakeTensorMap record;
  std::memcpy(&record, map.bytes, sizeof(record));
  return record;
}

inline const CUstream kStream = reinterpret_cast<CUstream>(std::uintptr_t{0x1234560});

struct LaunchFixture : FakeMachine {
  explicit LaunchFixture(int policy = KILN_MISS_BLOCK, kiln_problem asked = small_problem(),
                         const kiln_tile* tile = nullptr, int check_groups = KILN_CHECK_OFF) {
    kiln_engine_options options = quiet_options();
    options.miss_policy = policy;
    options.check_groups = check_groups;
    engine = make_engine(*this, options);
    plan = make_plan(engine, asked, tile);
  }
  kiln_status launch(const kiln_operands& operands, CUstream stream = kStream) const {
    return kiln_launch(plan.get(), &operands, stream);
  }
  EngineHandle engine;
  PlanHandle plan;
};

inline kiln_tile tile_of(int block_m, int block_n, int warpgroups_m, int warpgroups_n,
                         int cluster_m, int cluster_n) {
  kiln_tile tile = KILN_TILE_INIT;
  tile.block_m = block_m;
  tile.block_n = block_n;
  tile.warpgroups_m = warpgroups_m;
  tile.warpgroups_n = warpgroups_n;
  tile.cluster_m = cluster_m;
  tile.cluster_n = cluster_n;
  tile.stages = 3;
  return tile;
}

// A problem of small_problem()'s sizes for one of the grouped layouts.
inline kiln_problem grouped_problem(int layout, int group_form, int groups = 4) {
  kiln_problem problem = small_problem();
  problem.layout = layout;
  problem.group_form = group_form;
  problem.groups = groups;
  if (layout == KILN_LAYOUT_GROUPED_CONTIGUOUS) problem.alignment = 128;
  if (layout == KILN_LAYOUT_GROUPED_K) {
    problem.scaling = KILN_SCALING_1D1D;
    problem.sfa_major = KILN_SCALE_M_MAJOR;
  }
  return problem;
}

inline kiln_problem dense_1d1d() {
  kiln_problem problem = small_problem();
  problem.scaling = KILN_SCALING_1D1D;
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  return problem;
}

inline const std::int32_t* array_at(std::uintptr_t address) {
  return reinterpret_cast<const std::int32_t*>(address);
}

// Operands that obey every rule of such a problem, or of dense_1d1d(); nothing reads through the
// device addresses. 1d1d has K = 4096. Packed ones need their host_group_k.
inline kiln_operands grouped_operands(const kiln_problem& problem, std::int64_t m = 256) {
  kiln_operands o = good_operands(m);
  const bool packed = problem.group_form == KILN_GROUPS_PACKED;
  if (problem.layout != KILN_LAYOUT_DENSE && !packed) o.grouping = array_at(0x60000000);
  if (problem.layout == KILN_LAYOUT_GROUPED_MASKED) o.expected_m = (m + 1) / 2;
  if (problem.sfa_major == KILN_SCALE_M_MAJOR) o.ld_sfa = (m + 3) / 4 * 4;
  if (problem.scaling == KILN_SCALING_1D1D) {
    o.k = packed ? -1 : 4096;
    o.lda = o.ldb = packed ? 0 : 4096;
    o.ld_sfb = problem.n;
  }
  return o;
}

}  // namespace kiln::test
