// What the tests of launches share: an engine on the fakes with one plan, and what the driver saw.
#pragma once

#include <cstring>

#include "templates/params.cuh"
#include "tests/runtime/support.h"

namespace kiln::test {

template <class T>
T launched_params(const FakeCuda& cuda) {
  T params;
  REQUIRE(cuda.last_launch.param_bytes == sizeof(T));
  std::memcpy(static_cast<void*>(&params), cuda.last_launch.params.data(), sizeof(T));
  return params;
}

inline FakeTensorMap encoded(const device::TensorMap& map) {
  FakeTensorMap record;
  std::memcpy(&record, map.bytes, sizeof(record));
  return record;
}

inline const CUstream kStream = reinterpret_cast<CUstream>(std::uintptr_t{0x1234560});

struct LaunchFixture : FakeMachine {
  explicit LaunchFixture(int policy = KILN_MISS_BLOCK, kiln_problem asked = small_problem(),
                         const kiln_tile* tile = nullptr) {
    kiln_engine_options options = quiet_options();
    options.miss_policy = policy;
    engine = make_engine(*this, options);
    plan = make_plan(engine, asked, tile);
  }
  kiln_status launch(const kiln_operands& operands, CUstream stream = kStream) const {
    return kiln_launch(plan.get(), &operands, stream);
  }
  EngineHandle engine;
  PlanHandle plan;
};

inline kiln_tile tile_of(int block_m, int block_n, int warpgroups_m, int warpgroups_n, int cluster_m,
                  int cluster_n) {
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

}  // namespace kiln::test
