// kiln_launch and kiln_quantize on the fake driver: what reaches the driver, which operands are
// refused, and what a miss does under each policy and inside a capture.
#include <functional>
#include <limits>
#include <vector>

#include "tests/runtime/launch_support.h"

namespace kiln::test {

TEST_CASE("a launch hands the driver the tensor maps, parameters and grid of its tile",
          "[runtime]") {
  kiln_problem problem = small_problem();
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  const kiln_tile tile = tile_of(128, 96, 2, 1, 1, 1);
  LaunchFixture f(KILN_MISS_BLOCK, problem, &tile);
  kiln_operands o = good_operands(300);
  o.ld_sfa = 304;
  o.ldd = 520;
  o.flags = KILN_LAUNCH_PROGRAMMATIC;
  REQUIRE(f.launch(o) == KILN_OK);

  const FakeLaunch& launch = f.cuda.last_launch;
  CHECK(launch.stream == kStream);
  CHECK(launch.grid_x == 3 * 6);  // 300 / 128 by 512 / 96, fewer than the SMs
  CHECK(launch.grid_y == 1);
  CHECK(launch.threads == 384);
  CHECK(launch.cluster_x == 0);
  CHECK(launch.programmatic);
  const auto p = launched_params<device::GemmParams>(f.cuda);
  CHECK(p.m == 300);
  CHECK(p.num_tiles == 18);
  CHECK(p.sfa_rows == nullptr);  // loaded through its map
  CHECK(p.sfb_blocks == o.sfb);
  CHECK(p.ld_sfb == 8);
  CHECK(f.cuda.calls("cuTensorMapEncodeTiled") == 4);

  const FakeTensorMap a = encoded(p.a), b = encoded(p.b), d = encoded(p.d), sfa = encoded(p.sfa);
  CHECK(a.address == reinterpret_cast<std::uintptr_t>(o.a));
  CHECK((a.extents[0] == 1024 && a.extents[1] == 300 && a.stride_bytes == 1024));
  CHECK((a.box[0] == 128 && a.box[1] == 128));
  CHECK(a.swizzle == CU_TENSOR_MAP_SWIZZLE_128B);
  CHECK(a.promotion == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
  CHECK(a.type == CU_TENSOR_MAP_DATA_TYPE_UINT8);
  CHECK((b.extents[0] == 1024 && b.extents[1] == 512 && b.box[1] == 96));
  CHECK((d.extents[0] == 512 && d.extents[1] == 300 && d.stride_bytes == 1040));
  CHECK((d.box[0] == 32 && d.box[1] == 16));  // 96 BF16 columns: chunks of 64 bytes
  CHECK(d.swizzle == CU_TENSOR_MAP_SWIZZLE_64B);
  CHECK(d.type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
  CHECK((sfa.extents[0] == 300 && sfa.extents[1] == 8 && sfa.stride_bytes == 304 * 4));
  CHECK((sfa.box[0] == 128 && sfa.box[1] == 1 && sfa.swizzle == CU_TENSOR_MAP_SWIZZLE_NONE));
  for (const FakeTensorMap& map : {a, b, d, sfa})
    CHECK(map.fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);  // zeros
}

TEST_CASE("a cluster splits the boxes and rounds the grid down to whole clusters", "[runtime]") {
  const kiln_tile tile = tile_of(128, 64, 2, 1, 2, 2);
  LaunchFixture f(KILN_MISS_BLOCK, small_problem(), &tile);
  kiln_operands o = good_operands(100'000);
  REQUIRE(f.launch(o) == KILN_OK);
  CHECK(f.cuda.last_launch.cluster_x == 4);
  CHECK(f.cuda.last_launch.grid_x == 132);
  const auto p = launched_params<device::GemmParams>(f.cuda);
  CHECK(p.num_tiles == 391 * 4);
  CHECK(encoded(p.a).box[1] == 64);
  CHECK(encoded(p.b).box[1] == 32);

  o.num_sms = 30;
  REQUIRE(f.launch(o) == KILN_OK);
  CHECK(f.cuda.last_launch.grid_x == 28);
  o.num_sms = 1'000'000;  // "at most": more than there are is all of them
  REQUIRE(f.launch(o) == KILN_OK);
  CHECK(f.cuda.last_launch.grid_x == 132);
  o.num_sms = 3;
  CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("num_sms must be at least the 4 CTAs"));
}

TEST_CASE("each M is launched with the tile that describe names", "[runtime]") {
  LaunchFixture f;
  for (const std::int64_t m : {1, 7, 64, 65, 128, 129, 1000, 4096, 100'000, 2'000'000}) {
    kiln_plan_description before = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(f.plan.get(), m, &before) == KILN_OK);
    CHECK((before.m_min <= m && m <= before.m_max));
    REQUIRE(f.launch(good_operands(m)) == KILN_OK);
    kiln_plan_description after = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(f.plan.get(), m, &after) == KILN_OK);
    CHECK(after.ready == 1);
    CHECK(after.registers == 100);
    CHECK(std::string(after.key) == before.key);
    const auto p = launched_params<device::GemmParams>(f.cuda);
    CHECK(encoded(p.a).box[1] == static_cast<unsigned>(after.tile.block_m / after.tile.cluster_n));
    CHECK(encoded(p.b).box[1] == static_cast<unsigned>(after.tile.block_n / after.tile.cluster_m));
    CHECK(f.cuda.last_launch.threads == static_cast<unsigned>(after.threads));
    CHECK(f.cuda.last_launch.smem_bytes == after.dynamic_smem_bytes);
  }
}

TEST_CASE("an empty M succeeds and enqueues nothing", "[runtime]") {
  LaunchFixture f;
  kiln_operands o = KILN_OPERANDS_INIT;
  CHECK(f.launch(o) == KILN_OK);
  CHECK(f.cuda.launches == 0);
  CHECK(f.toolchain->compiles == 0);
}

TEST_CASE(
    "each wrong operand is refused with field, value, rule and remedy, and nothing is enqueued",
    "[runtime]") {
  kiln_problem problem = small_problem();
  problem.sfa_major = KILN_SCALE_M_MAJOR;
  LaunchFixture row, m_major(KILN_MISS_BLOCK, problem);
  kiln_problem f32 = small_problem();
  f32.d_type = KILN_TYPE_F32;
  LaunchFixture float_out(KILN_MISS_BLOCK, f32);
  struct Case {
    const char* words;
    std::function<void(kiln_operands&)> change;
    const LaunchFixture* fixture = nullptr;
  };
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  const std::vector<Case> cases = {
      {"m must be in 0..2147483136", [](auto& o) { o.m = -1; }},
      {"m must be in 0..2147483136", [](auto& o) { o.m = std::int64_t{1} << 31; }},
      {"m must be in 0..2147483136", [](auto& o) { o.m = kHuge; }},
      {"a must be a device pointer, got null", [](auto& o) { o.a = nullptr; }},
      {"a must be aligned to 16 bytes, got 0x10000008", [&](auto& o) { o.a = at(0x10000008); }},
      {"lda must be at least 1024", [](auto& o) { o.lda = 1008; }},
      {"lda must be at least 1024 (the length of one row of a), got -16",
       [](auto& o) { o.lda = -16; }},
      {"lda must be a multiple of 16 (rows of a begin at 16-byte boundaries), got 1032: pad the "
       "rows to 1040",
       [](auto& o) { o.lda = 1032; }},
      {"lda must be below 1099511627776", [](auto& o) { o.lda = std::int64_t{1} << 40; }},
      {"lda must be below", [](auto& o) { o.lda = kHuge - 15; }},
      {"a: 2000000000 rows of 1024 elements, 1099511627760 apart",
       [](auto& o) { o.m = 2'000'000'000, o.lda = (std::int64_t{1} << 40) - 16; }},
      {"b must be a device pointer, got null", [](auto& o) { o.b = nullptr; }},
      {"b must be aligned to 16 bytes", [&](auto& o) { o.b = at(0x20000001); }},
      {"ldb must be at least 1024", [](auto& o) { o.ldb = 0; }},
      {"ldb must be a multiple of 16", [](auto& o) { o.ldb = 1025; }},
      {"sfa must be a device pointer, got null", [](auto& o) { o.sfa = nullptr; }},
      {"sfa must be aligned to 4 bytes", [&](auto& o) { o.sfa = at(0x30000002); }},
      {"ld_sfa must be at least 8", [](auto& o) { o.ld_sfa = 7; }},
      {"sfa: ", [](auto& o) { o.m = 2'000'000'000, o.ld_sfa = (std::int64_t{1} << 38) - 1; }},
      {"sfa must be aligned to 16 bytes", [&](auto& o) { o.sfa = at(0x30000004), o.ld_sfa = 256; },
       &m_major},
      {"ld_sfa must be at least 256", [](auto& o) { o.ld_sfa = 252; }, &m_major},
      {"ld_sfa must be a multiple of 4", [](auto& o) { o.ld_sfa = 258; }, &m_major},
      {"sfb must be a device pointer, got null", [](auto& o) { o.sfb = nullptr; }},
      {"sfb must be aligned to 4 bytes", [&](auto& o) { o.sfb = at(0x40000001); }},
      {"ld_sfb must be at least 8", [](auto& o) { o.ld_sfb = 1; }},
      {"d must be a device pointer, got null", [](auto& o) { o.d = nullptr; }},
      {"d must be aligned to 16 bytes", [&](auto& o) { o.d = at(0x50000008); }},
      {"ldd must be at least 512", [](auto& o) { o.ldd = 504; }},
      {"ldd must be a multiple of 8", [](auto& o) { o.ldd = 516; }},
      {"ldd must be a multiple of 4", [](auto& o) { o.ldd = 518; }, &float_out},
      {"ldd must be below 274877906944", [](auto& o) { o.ldd = std::int64_t{1} << 38; },
       &float_out},
      {"num_sms must be in 0..2147483647", [](auto& o) { o.num_sms = -1; }},
      {"flags must be a combination of KILN_LAUNCH_* (0x3), got 0x4", [](auto& o) { o.flags = 4; }},
  };
  for (const Case& test : cases) {
    kiln_operands o = good_operands();
    test.change(o);
    const LaunchFixture& f = test.fixture != nullptr ? *test.fixture : row;
    INFO(test.words);
    CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
  }
  CHECK(row.cuda.launches == 0);
  CHECK(row.toolchain->compiles == 0);
  CHECK(row.launch(good_operands()) == KILN_OK);  // and the next good call works
}

TEST_CASE("a D of more tiles than a tile index holds is refused", "[runtime]") {
  kiln_problem problem = small_problem();
  problem.n = 2'000'000'000;
  LaunchFixture f(KILN_MISS_BLOCK, problem);
  kiln_operands o = good_operands(2'000'000'000);
  o.ldd = problem.n;
  CHECK(f.launch(o) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("at most 2^31-1 tiles"));
}

TEST_CASE("on a miss the engine does what its policy says", "[runtime]") {
  SECTION("block: compiles and launches") {
    LaunchFixture f(KILN_MISS_BLOCK);
    CHECK(f.launch(good_operands()) == KILN_OK);
    CHECK(f.launch(good_operands()) == KILN_OK);
    CHECK(f.toolchain->compiles == 1);
    CHECK(f.cuda.launches == 2);
  }
  SECTION("not ready: says so until it is prepared") {
    LaunchFixture f(KILN_MISS_NOT_READY);
    CHECK(f.launch(good_operands()) == KILN_ERROR_NOT_READY);
    CHECK(f.toolchain->compiles == 0);
    REQUIRE(kiln_plan_prepare(f.plan.get(), 256, 256) == KILN_OK);
    CHECK(f.launch(good_operands()) == KILN_OK);
  }
  SECTION("frozen: an error that names the key") {
    LaunchFixture f(KILN_MISS_FROZEN);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(f.plan.get(), 256, &description) == KILN_OK);
    CHECK(f.launch(good_operands()) == KILN_ERROR_FROZEN);
    CHECK(std::string(description.key).size() == 64);
    CHECK(error_mentions(description.key));
    CHECK(f.cuda.launches == 0);
  }
}

TEST_CASE("a miss on a capturing stream is NOT_READY after the capture query alone",
          "[runtime][capture]") {
  for (const int policy : {KILN_MISS_BLOCK, KILN_MISS_NOT_READY, KILN_MISS_FROZEN}) {
    LaunchFixture f(policy);
    f.cuda.capturing = kStream;
    const int before = f.cuda.calls();
    CHECK(f.launch(good_operands()) == KILN_ERROR_NOT_READY);
    CHECK(f.cuda.calls() - before == 1);
    CHECK(f.cuda.calls("cuStreamIsCapturing") == 1);
    CHECK_FALSE(f.cuda.capture_invalidated);
    CHECK(error_mentions("being captured"));
    CHECK(f.toolchain->compiles == 0);
  }
}

TEST_CASE("a prepared kernel is launched into a capture without asking or disturbing it",
          "[runtime][capture]") {
  LaunchFixture f;
  REQUIRE(kiln_plan_prepare(f.plan.get(), 0, INT64_MAX) == KILN_OK);
  f.cuda.capturing = kStream;
  for (const std::int64_t m : {1, 100, 5000, 100'000}) CHECK(f.launch(good_operands(m)) == KILN_OK);
  CHECK(f.cuda.calls("cuStreamIsCapturing") == 2);  // both in prepare
  CHECK_FALSE(f.cuda.capture_invalidated);
}

TEST_CASE("preparing while the driver shows a capture is CAPTURING", "[runtime][capture]") {
  LaunchFixture f;
  f.cuda.capturing = CU_STREAM_PER_THREAD;
  CHECK(kiln_plan_prepare(f.plan.get(), 0, 1) == KILN_ERROR_CAPTURING);
  f.cuda.capturing = kStream;
  f.cuda.capture_is_blocking = true;
  CHECK(kiln_plan_prepare(f.plan.get(), 0, 1) == KILN_ERROR_CAPTURING);
  CHECK(f.toolchain->compiles == 0);
  CHECK_FALSE(f.cuda.capture_invalidated);
}

TEST_CASE("loading while another stream is captured leaves that capture valid",
          "[runtime][capture]") {
  LaunchFixture f;
  f.cuda.capturing = reinterpret_cast<CUstream>(std::uintptr_t{0x999000});
  CHECK(f.launch(good_operands()) == KILN_OK);
  CHECK_FALSE(f.cuda.capture_invalidated);
  f.plan.reset();
  f.engine.reset();  // unloads
  CHECK_FALSE(f.cuda.capture_invalidated);
}

TEST_CASE("a kernel that another plan of the engine loaded is no miss", "[runtime]") {
  LaunchFixture f(KILN_MISS_NOT_READY);
  const PlanHandle twin = make_plan(f.engine);
  REQUIRE(kiln_plan_prepare(twin.get(), 0, INT64_MAX) == KILN_OK);
  CHECK(f.launch(good_operands()) == KILN_OK);
}

TEST_CASE("preparing a range compiles the tiles of that range and no others", "[runtime]") {
  LaunchFixture f;
  kiln_plan_description small = KILN_PLAN_DESCRIPTION_INIT, large = KILN_PLAN_DESCRIPTION_INIT;
  REQUIRE(kiln_plan_prepare(f.plan.get(), 1, 1) == KILN_OK);
  CHECK(f.toolchain->compiles == 1);
  REQUIRE(kiln_plan_describe(f.plan.get(), 1, &small) == KILN_OK);
  REQUIRE(kiln_plan_describe(f.plan.get(), 1'000'000, &large) == KILN_OK);
  CHECK(small.ready == 1);
  CHECK(large.ready == 0);
  REQUIRE(kiln_plan_prepare(f.plan.get(), 0, INT64_MAX) == KILN_OK);
  const int all = f.toolchain->compiles;
  for (std::int64_t m = 1; m < (std::int64_t{1} << 31) - 512; m += 1 + m / 3) {
    CHECK(f.launch(good_operands(m)) == KILN_OK);
  }
  CHECK(f.toolchain->compiles == all);  // warming was complete
  CHECK(kiln_plan_prepare(f.plan.get(), -1, 5) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(kiln_plan_prepare(f.plan.get(), 5, 4) == KILN_ERROR_INVALID_ARGUMENT);
}

TEST_CASE("the caller's context is current again after every call, failed ones too", "[runtime]") {
  LaunchFixture f;
  kiln_operands bad = good_operands();
  bad.lda = 3;
  for (const CUcontext mine : {CUcontext{}, fake_other_context(0), fake_primary_context(0)}) {
    fake_set_current_context(mine);
    CHECK(f.launch(good_operands()) == KILN_OK);
    CHECK(fake_current_context() == mine);
    CHECK(f.launch(bad) != KILN_OK);
    CHECK(fake_current_context() == mine);
    CHECK(kiln_plan_prepare(f.plan.get(), 0, INT64_MAX) == KILN_OK);
    CHECK(fake_current_context() == mine);
    f.cuda.launch_result = CUDA_ERROR_ILLEGAL_ADDRESS;
    CHECK(f.launch(good_operands()) == KILN_ERROR_DRIVER);
    CHECK(error_mentions("cuLaunchKernelEx failed: CUDA_ERROR_ILLEGAL_ADDRESS"));
    CHECK(error_mentions("a kernel that ran earlier in this context"));
    CHECK(fake_current_context() == mine);
    f.cuda.launch_result = CUDA_SUCCESS;
    f.cuda.encode_result = CUDA_ERROR_INVALID_VALUE;
    CHECK(f.launch(good_operands()) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("cuTensorMapEncodeTiled"));
    CHECK(fake_current_context() == mine);
    f.cuda.encode_result = CUDA_SUCCESS;
    LaunchFixture failing;
    fake_set_current_context(mine);
    failing.cuda.load_result = CUDA_ERROR_OUT_OF_MEMORY;
    CHECK(failing.launch(good_operands()) == KILN_ERROR_OUT_OF_MEMORY);
    CHECK(fake_current_context() == mine);
    failing.cuda.load_result = CUDA_SUCCESS;
  }
  fake_set_current_context(nullptr);
  f.cuda.push_result = CUDA_ERROR_INVALID_CONTEXT;
  CHECK(f.launch(good_operands()) == KILN_ERROR_DRIVER);
  CHECK(error_mentions("cuCtxPushCurrent"));
  f.cuda.push_result = CUDA_SUCCESS;  // or the engine could not unload
}

TEST_CASE("an engine without a device plans and prepares but does not launch", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options(KILN_DEVICE_NONE));
  const PlanHandle plan = make_plan(engine);
  CHECK(kiln_plan_prepare(plan.get(), 0, INT64_MAX) == KILN_OK);
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  REQUIRE(kiln_plan_describe(plan.get(), 4096, &description) == KILN_OK);
  CHECK(description.ready == 1);
  CHECK(description.cubin_bytes > 0);
  const kiln_operands operands = good_operands();
  CHECK(kiln_launch(plan.get(), &operands, nullptr) == KILN_ERROR_NO_DEVICE);
  CHECK(machine.cuda.calls() == 0);
}

TEST_CASE("a quantizer launches one CTA per piece that its kernel casts", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  const auto make = [&](int granularity, int major, int in_type) {
    kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
    problem.granularity = granularity;
    problem.scale_major = major;
    problem.in_type = in_type;
    kiln_quantizer* quantizer = nullptr;
    REQUIRE(kiln_quantizer_create(engine.get(), &problem, &quantizer) == KILN_OK);
    return QuantizerHandle(quantizer);
  };
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
  kiln_quantize_operands good = KILN_QUANTIZE_OPERANDS_INIT;
  good.rows = 1000;
  good.cols = 1040;
  good.in = at(0x10000000);
  good.ld_in = 1048;
  good.out = at(0x20000000);
  good.ld_out = 1056;
  good.scales = at(0x30000004);
  good.ld_scales = 9;
  const QuantizerHandle rows = make(KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR, KILN_TYPE_BF16);
  REQUIRE(kiln_quantize(rows.get(), &good, kStream) == KILN_OK);
  CHECK(machine.cuda.last_launch.grid_x == 32 * 3);
  CHECK(machine.cuda.last_launch.threads == 256);
  CHECK(machine.cuda.last_launch.stream == kStream);
  const auto p = launched_params<device::QuantizeParams>(machine.cuda);
  CHECK((p.in == good.in && p.out == good.out && p.scales == good.scales));
  CHECK((p.rows == 1000 && p.cols == 1040 && p.ld_in == 1048 && p.ld_out == 1056 &&
         p.ld_scales == 9));

  const QuantizerHandle blocks = make(KILN_SCALE_128X128, KILN_SCALE_ROW_MAJOR, KILN_TYPE_F32);
  REQUIRE(kiln_quantizer_prepare(blocks.get()) == KILN_OK);
  REQUIRE(kiln_quantize(blocks.get(), &good, kStream) == KILN_OK);
  CHECK(machine.cuda.last_launch.grid_x == 8 * 9);

  struct Case {
    const char* words;
    std::function<void(kiln_quantize_operands&)> change;
  };
  const std::vector<Case> cases = {
      {"rows must be in 0..", [](auto& o) { o.rows = -1; }},
      {"cols must be in 16..", [](auto& o) { o.cols = 0; }},
      {"cols must be a multiple of 16 (FP8 rows are written in 16-byte units), got 1000: pad it to "
       "1008",
       [](auto& o) { o.cols = 1000; }},
      {"in must be a device pointer", [](auto& o) { o.in = nullptr; }},
      {"in must be aligned to 16", [&](auto& o) { o.in = at(0x10000008); }},
      {"ld_in must be at least 1040", [](auto& o) { o.ld_in = 1032; }},
      {"ld_in must be a multiple of 8", [](auto& o) { o.ld_in = 1044; }},
      {"out must be a device pointer", [](auto& o) { o.out = nullptr; }},
      {"out must be aligned to 16", [&](auto& o) { o.out = at(0x20000004); }},
      {"ld_out must be at least 1040", [](auto& o) { o.ld_out = 1024; }},
      {"ld_out must be a multiple of 16", [](auto& o) { o.ld_out = 1048; }},
      {"scales must be a device pointer", [](auto& o) { o.scales = nullptr; }},
      {"scales must be aligned to 4", [&](auto& o) { o.scales = at(0x30000001); }},
      {"ld_scales must be at least 9", [](auto& o) { o.ld_scales = 8; }},
      {"rows x cols must give at most 2^31-1 CTAs",
       [](auto& o) {
         o.rows = 2'000'000'000, o.cols = o.ld_in = o.ld_out = 1 << 20, o.ld_scales = 1 << 13;
       }},
  };
  const std::uint64_t launches = machine.cuda.launches;
  for (const Case& test : cases) {
    kiln_quantize_operands o = good;
    test.change(o);
    INFO(test.words);
    CHECK(kiln_quantize(rows.get(), &o, kStream) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
  }
  kiln_quantize_operands empty = good;
  empty.rows = 0;
  empty.in = nullptr;
  CHECK(kiln_quantize(rows.get(), &empty, kStream) == KILN_OK);
  CHECK(machine.cuda.launches == launches);

  const QuantizerHandle m_major = make(KILN_SCALE_1X128, KILN_SCALE_M_MAJOR, KILN_TYPE_BF16);
  CHECK(kiln_quantize(m_major.get(), &good, kStream) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("ld_scales must be at least 1000"));
  machine.cuda.capturing = kStream;
  good.ld_scales = 1000;
  CHECK(kiln_quantize(m_major.get(), &good, kStream) == KILN_ERROR_NOT_READY);
  CHECK(kiln_quantize(rows.get(), &good, kStream) == KILN_OK);
}

}  // namespace kiln::test
