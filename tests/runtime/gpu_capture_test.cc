// Stream captures on a real GPU: with none, half and all kernels prepared, in every mode; and
// graphs that are replayed when the cache that their kernels came from is gone.
#include <fmt/format.h>

#include <filesystem>

#include "tests/runtime/gpu_grouped_support.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

// What was captured, ready to be replayed.
class CapturedGraph {
 public:
  template <class Enqueue>
  CapturedGraph(Gpu& gpu, CUstreamCaptureMode mode, Enqueue&& enqueue)
      : gpu_(gpu), scope_(gpu.device().driver(), gpu.device().context()) {
    const auto begin =
        driver_call<CUresult(CUstream, CUstreamCaptureMode)>(gpu, "cuStreamBeginCapture_v2");
    const auto end = driver_call<CUresult(CUstream, CUgraph*)>(gpu, "cuStreamEndCapture");
    const auto instantiate = driver_call<CUresult(CUgraphExec*, CUgraph, unsigned long long)>(
        gpu, "cuGraphInstantiateWithFlags");
    REQUIRE(begin(gpu.stream(), mode) == CUDA_SUCCESS);
    enqueue();
    REQUIRE(end(gpu.stream(), &graph_) == CUDA_SUCCESS);  // a spoilt capture fails here
    REQUIRE(instantiate(&executable_, graph_, 0) == CUDA_SUCCESS);
  }
  ~CapturedGraph() {
    driver_call<CUresult(CUgraphExec)>(gpu_, "cuGraphExecDestroy")(executable_);
    driver_call<CUresult(CUgraph)>(gpu_, "cuGraphDestroy")(graph_);
  }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  void replay() const {
    REQUIRE(driver_call<CUresult(CUgraphExec, CUstream)>(gpu_, "cuGraphLaunch")(
                executable_, gpu_.stream()) == CUDA_SUCCESS);
  }
  std::size_t num_nodes() const {
    std::size_t count = 0;
    REQUIRE(driver_call<CUresult(CUgraph, CUgraphNode*, std::size_t*)>(gpu_, "cuGraphGetNodes")(
                graph_, nullptr, &count) == CUDA_SUCCESS);
    return count;
  }

 private:
  Gpu& gpu_;
  runtime::ContextScope scope_;
  CUgraph graph_ = nullptr;
  CUgraphExec executable_ = nullptr;
};

constexpr CUstreamCaptureMode kModes[] = {CU_STREAM_CAPTURE_MODE_GLOBAL,
                                          CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
                                          CU_STREAM_CAPTURE_MODE_RELAXED};

// Four problems that no other test has, so that nobody else loads their kernels.
std::vector<std::unique_ptr<GemmData>> four_gemms(Gpu& gpu, int variant) {
  std::vector<std::unique_ptr<GemmData>> gemms;
  for (int i = 0; i < 4; ++i) {
    jit::Problem problem;
    problem.n = 1112 + 8 * (4 * variant + i);
    problem.k = 784;
    gemms.push_back(std::make_unique<GemmData>(gpu, GemmCase{problem, 33}));
    gemms.back()->fill_exact();
    gemms.back()->upload();
  }
  return gemms;
}

// `prepared` of the four kernels are ready; the launches of the others are refused and leave no
// trace.
void check_captures(Gpu& gpu, int variant, std::size_t prepared, int rounds) {
  const auto gemms = four_gemms(gpu, variant);
  for (std::size_t i = 0; i < prepared; ++i)
    KILN_CHECK_OK(kiln_plan_prepare(gemms[i]->plan(), 33, 33));
  for (int round = 0; round < rounds; ++round) {
    const CUstreamCaptureMode mode = kModes[round % 3];
    INFO("round " << round << " mode " << mode << ", " << prepared << " of 4 prepared");
    kiln_status statuses[4];
    const CapturedGraph graph(gpu, mode, [&] {
      for (std::size_t i = 0; i < 4; ++i) {
        kiln_plan* const plan = gemms[i]->plan();
        const kiln_operands operands = gemms[i]->operands();
        statuses[i] = kiln_launch(plan, &operands, gpu.stream());
      }
    });
    for (std::size_t i = 0; i < 4; ++i)
      REQUIRE(statuses[i] == (i < prepared ? KILN_OK : KILN_ERROR_NOT_READY));
    REQUIRE(graph.num_nodes() == prepared);
    if (round % 20 >= 3) continue;  // results now and then: they take longer than captures
    for (const auto& gemm : gemms) {
      gemm->d16.poison_all();
      gemm->upload();
    }
    graph.replay();
    for (std::size_t i = 0; i < 4; ++i) {
      REQUIRE(gemms[i]->download());
      if (i < prepared)
        REQUIRE(gemms[i]->mismatches() == 0);
      else
        REQUIRE(gemms[i]->d16.is_all_poison());
    }
  }
}

}  // namespace

TEST_CASE("captures with none, half and all kernels prepared stay valid in every mode",
          "[gpu][capture]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const int rounds = by_scale(9, 334);
  check_captures(gpu, 0, 0, rounds);
  check_captures(gpu, 1, 2, rounds);
  check_captures(gpu, 2, 4, rounds);
  report_figures(fmt::format("{} captures in 3 modes with 0, 50 and 100 % prepared, 0 spoilt",
                             with_commas(static_cast<unsigned>(3 * rounds))));
}

TEST_CASE("graphs are replayed after the cache of their kernels is gone", "[gpu][capture]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  std::string pattern = (std::filesystem::temp_directory_path() / "kiln-capture-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = gpu.device().info().ordinal;
  options.cache_dir = pattern.c_str();
  kiln_engine* engine = nullptr;
  KILN_CHECK_OK(kiln_engine_create(&options, &engine));
  jit::Problem problem;
  problem.layout = jit::Layout::kGroupedMasked;
  problem.group_form = jit::GroupForm::kRows;
  problem.n = 136;
  problem.k = 272;
  {
    GroupedGemm gemm(gpu, {.problem = problem, .sizes = {1, 0, 77, 140}, .m = 140}, engine);
    gemm.fill_exact();
    gemm.upload();
    KILN_CHECK_OK(kiln_plan_prepare(gemm.plan(), 0, INT64_MAX));
    const CapturedGraph graph(gpu, CU_STREAM_CAPTURE_MODE_GLOBAL, [&] { gemm.launch(); });
    std::filesystem::remove_all(pattern);
    for (int replay = 0; replay < by_scale(10, 100); ++replay) {
      gpu.synchronize();
      gemm.reset_output();
      graph.replay();
      const std::string defect = gemm.defect();
      INFO("replay " << replay);
      REQUIRE(defect == "");
    }
    gemm.launch();  // and so are launches
    KILN_CHECK_OK(kiln_plan_prepare(gemm.plan(), 0, INT64_MAX));
  }
  kiln_engine_destroy(engine);
  report_figures(fmt::format("{} replays without the cache", by_scale(10, 100)));
}

}  // namespace kiln::test
