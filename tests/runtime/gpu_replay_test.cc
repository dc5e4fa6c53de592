// Grouped launches again and again: in CUDA graphs whose group sizes change between replays, with
// the same bits every time, and close behind one another on one stream.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {
namespace {

using Sizes = std::vector<std::int32_t>;

jit::Problem row_groups(jit::Layout layout, jit::GroupForm form, std::int32_t alignment,
                        std::int64_t n, std::int64_t k) {
  jit::Problem problem;
  problem.layout = layout;
  problem.group_form = form;
  problem.alignment = alignment;
  problem.n = n;
  problem.k = k;
  return problem;
}

jit::Problem contiguous(std::int64_t n, std::int64_t k) {
  return row_groups(jit::Layout::kGroupedContiguous, jit::GroupForm::kEnds, 1, n, k);
}

jit::Problem masked(std::int64_t n, std::int64_t k) {
  return row_groups(jit::Layout::kGroupedMasked, jit::GroupForm::kRows, 0, n, k);
}

jit::Problem grouped_k(std::int64_t n) {
  jit::Problem problem = row_groups(jit::Layout::kGroupedK, jit::GroupForm::kEnds, 0, n, 256);
  problem.scaling = jit::Scaling::k1d1d;
  problem.sfa_major = jit::ScaleMajor::kM;
  problem.out = jit::OutputType::kF32;
  problem.accumulate = true;
  return problem;
}

// One captured launch.
class Graph {
 public:
  Graph(Gpu& gpu, GroupedGemm& gemm) : gpu_(gpu) {
    const auto begin =
        driver_call<CUresult(CUstream, CUstreamCaptureMode)>(gpu, "cuStreamBeginCapture_v2");
    const auto end = driver_call<CUresult(CUstream, CUgraph*)>(gpu, "cuStreamEndCapture");
    const auto instantiate = driver_call<CUresult(CUgraphExec*, CUgraph, unsigned long long)>(
        gpu, "cuGraphInstantiateWithFlags");
    KILN_CHECK_OK(kiln_plan_prepare(gemm.plan(), 0, INT64_MAX));
    const runtime::ContextScope scope(gpu.device().driver(), gpu.device().context());
    REQUIRE(begin(gpu.stream(), CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
    gemm.launch();
    REQUIRE(end(gpu.stream(), &graph_) == CUDA_SUCCESS);
    REQUIRE(instantiate(&executable_, graph_, 0) == CUDA_SUCCESS);
  }
  ~Graph() {
    const runtime::ContextScope scope(gpu_.device().driver(), gpu_.device().context());
    driver_call<CUresult(CUgraphExec)>(gpu_, "cuGraphExecDestroy")(executable_);
    driver_call<CUresult(CUgraph)>(gpu_, "cuGraphDestroy")(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay() const {
    const runtime::ContextScope scope(gpu_.device().driver(), gpu_.device().context());
    REQUIRE(driver_call<CUresult(CUgraphExec, CUstream)>(gpu_, "cuGraphLaunch")(
                executable_, gpu_.stream()) == CUDA_SUCCESS);
  }

 private:
  Gpu& gpu_;
  CUgraph graph_ = nullptr;
  CUgraphExec executable_ = nullptr;
};

// Replays with new sizes each time, each size a multiple of `unit` up to `largest`; every 50th
// result is compared, the others only overwrite each other.
void check_replays(Gpu& gpu, const GroupedCase& test, std::int32_t unit, std::int32_t largest) {
  INFO(describe(test));
  std::mt19937_64 random(9);
  GroupedGemm gemm(gpu, test);
  gemm.fill_exact();
  gemm.upload();
  const Graph graph(gpu, gemm);
  for (int replay = 0; replay < 1000; ++replay) {
    Sizes sizes(test.sizes.size(), 0);
    // Now and then nobody has anything, or one group has it all.
    if (replay % 100 == 50) {
      sizes[random() % sizes.size()] = largest / unit * unit;
    } else if (replay % 100 != 0) {
      for (std::int32_t& size : sizes)
        size = static_cast<std::int32_t>(random() % (static_cast<unsigned>(largest / unit) + 1)) *
               unit;
    }
    gpu.synchronize();
    gemm.regroup(sizes);
    const bool compare = replay % 50 == 0 || replay % 50 == 17 || replay == 999;
    if (compare) gemm.reset_output();
    graph.replay();
    if (!compare) continue;
    const std::string defect = gemm.defect();
    INFO("replay " << replay);
    REQUIRE(defect == "");
  }
}

void check_same_bits(Gpu& gpu, const GroupedCase& test, int runs) {
  INFO(describe(test));
  GroupedGemm gemm(gpu, test);
  gemm.fill_random();
  gemm.upload();
  gemm.launch();
  const std::vector<std::byte> first = gemm.output_bytes();
  CHECK(gemm.defect() == "");
  for (int run = 0; run < runs; ++run) {
    gemm.reset_output();
    gemm.launch(0, run % 10 == 9 ? 8 + run % 100 : 0);
    INFO("run " << run);
    REQUIRE(gemm.output_bytes() == first);
  }
}

// Many tiles each, so that every SM has several and groups meet on them.
void check_repeats(Gpu& gpu, int runs) {
  check_same_bits(gpu, {.problem = contiguous(1032, 912), .sizes = {1, 0, 129, 300, 127, 64, 65}},
                  runs);
  check_same_bits(
      gpu, {.problem = masked(1032, 912), .sizes = {1, 0, 129, 200, 127, 64, 65}, .m = 200}, runs);
  check_same_bits(gpu, {.problem = grouped_k(520), .sizes = {128, 0, 512, 256, 128}, .m = 392},
                  runs);
}

}  // namespace

TEST_CASE("a captured grouped launch follows group sizes that change between 1,000 replays",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_replays(
      gpu, {.problem = contiguous(136, 272), .sizes = {100, 100, 100, 100, 100}, .fill_all = true},
      1, 100);
  check_replays(gpu,
                {.problem = masked(136, 272), .sizes = {0, 0, 0, 0, 0}, .m = 140, .fill_all = true},
                1, 140);
  check_replays(
      gpu, {.problem = grouped_k(136), .sizes = {256, 256, 256, 256}, .m = 72, .fill_all = true},
      128, 256);
}

TEST_CASE("grouped launches give the same bits on each of 100 runs and on any number of SMs",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_repeats(gpu, 100);
}

// Some minutes: run it by name.
TEST_CASE("grouped launches give the same bits on each of 1,000 runs", "[.][soak]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_repeats(gpu, 1000);
}

TEST_CASE("grouped launches back to back, also with programmatic launch, each see the one before",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  jit::Problem rows = contiguous(264, 512), slices = masked(264, 512);
  for (jit::Problem* problem : {&rows, &slices}) {
    problem->out = jit::OutputType::kF32;
    problem->accumulate = true;
  }
  for (const std::uint32_t flags : {0u, static_cast<std::uint32_t>(KILN_LAUNCH_PROGRAMMATIC)}) {
    for (const GroupedCase& test :
         {GroupedCase{.problem = rows, .sizes = {100, 0, 130, 65}},
          GroupedCase{.problem = slices, .sizes = {100, 0, 130, 65}, .m = 150},
          GroupedCase{.problem = grouped_k(264), .sizes = {128, 0, 256}, .m = 300}}) {
      INFO(describe(test) << " flags " << flags);
      constexpr int kTimes = 10;
      GroupedGemm gemm(gpu, test);
      gemm.fill_exact();
      gemm.upload();
      for (int i = 0; i < kTimes; ++i) gemm.launch(flags);
      CHECK(gemm.defect(kTimes) == "");
    }
  }
}

TEST_CASE("plans by labels and by ends take turns on one D", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  jit::Problem by_ends = contiguous(264, 512);
  by_ends.out = jit::OutputType::kF32;
  by_ends.accumulate = true;
  jit::Problem by_labels = by_ends;
  by_labels.group_form = jit::GroupForm::kLabels;
  const Sizes sizes{100, 0, 130, 65};
  for (const std::uint32_t flags : {0u, static_cast<std::uint32_t>(KILN_LAUNCH_PROGRAMMATIC)}) {
    GroupedGemm gemm(gpu, {.problem = by_ends, .sizes = sizes});
    GroupedGemm other(gpu, {.problem = by_labels, .sizes = sizes});
    gemm.fill_exact();
    gemm.upload();
    other.upload();
    kiln_operands operands = gemm.operands(flags);
    operands.grouping = other.operands().grouping;
    for (int i = 0; i < 5; ++i) {
      gemm.launch(flags);
      KILN_CHECK_OK(kiln_launch(other.plan(), &operands, gpu.stream()));
    }
    CHECK(gemm.defect(10) == "");
  }
}

TEST_CASE("plans of all layouts take turns on one stream", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  GroupedGemm rows(gpu, {.problem = contiguous(264, 400), .sizes = {100, 0, 130, 65}});
  GroupedGemm slices(gpu, {.problem = masked(264, 400), .sizes = {100, 0, 130, 65}, .m = 150});
  GroupedGemm gradient(gpu, {.problem = grouped_k(264), .sizes = {128, 0, 256}, .m = 300});
  for (GroupedGemm* gemm : {&rows, &slices, &gradient}) {
    gemm->fill_exact();
    gemm->upload();
  }
  for (const std::uint32_t flags : {0u, static_cast<std::uint32_t>(KILN_LAUNCH_PROGRAMMATIC)}) {
    gradient.reset_output();
    for (int i = 0; i < 10; ++i) {
      rows.launch(flags);
      slices.launch(flags);
      gradient.launch(flags);
    }
    CHECK(gradient.defect(10) == "");
    CHECK(rows.defect() == "");
    CHECK(slices.defect() == "");
  }
}

}  // namespace kiln::test
