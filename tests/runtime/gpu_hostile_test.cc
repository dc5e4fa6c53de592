// Tiles that the loader accepted from random and hostile tables, run on a real GPU: right to the
// bit, all padding poison, nothing written outside. Meant to be run under compute-sanitizer as
// well, in parts: KILN_TEST_TILES says how many tiles (24; the gate's full scale: 1000),
// KILN_TEST_SKIP how many of the sequence to leave out before them.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "jit/source.h"
#include "tests/runtime/gpu_grouped_support.h"
#include "tests/runtime/hostile_tables.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

struct Accepted {
  jit::Problem problem;
  jit::Tile tile;
};

// Small enough for a reference on the host.
constexpr std::uint32_t kMostN = 400, kMostK = 768;
constexpr std::int32_t kMostGroups = 5;

std::size_t number_of(const char* variable, std::size_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

// The first `count` tiles, each another program, that tables of ever new seeds got past the loader,
// and that a lookup then offered for the problem that they were written for.
std::vector<Accepted> accepted_tiles(std::size_t count, const jit::Machine& machine) {
  std::vector<Accepted> all;
  std::set<std::string> programs;
  for (std::uint32_t seed = 500'000; all.size() < count; ++seed) {
    Hostile h(seed);
    std::vector<jit::Problem> problems;
    for (int i = 0; i < 50; ++i) problems.push_back(random_problem(h, kMostN, kMostK, kMostGroups));
    runtime::TunedTables tables;
    try {
      tables.add(runtime::TunedTable::load(hostile_table(h, problems), "hostile"));
    } catch (const Error&) {
      continue;
    }
    for (const jit::Problem& problem : problems) {
      for (const auto& interval : tables.find(problem, machine).intervals) {
        const jit::Source source = jit::render({jit::GemmSpec{problem, interval.tile}, {}});
        if (programs.insert(source.entry + source.text).second)
          all.push_back({problem, interval.tile});
      }
    }
  }
  all.resize(count);
  return all;
}

// All processors compile; the engine keeps what it loaded.
void prepare_all(const Gpu& gpu, const std::vector<Accepted>& tiles) {
  std::atomic<std::size_t> next{0};
  std::atomic<int> failures{0};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < tiles.size();) {
      const kiln_problem problem = c_problem(tiles[i].problem);
      const kiln_tile tile = runtime::to_c(tiles[i].tile);
      kiln_plan* plan = nullptr;
      if (kiln_plan_create(gpu.handle(), &problem, &tile, &plan) != KILN_OK ||
          kiln_plan_prepare(plan, 0, INT64_MAX) != KILN_OK)
        ++failures;
      kiln_plan_destroy(plan);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i)
    threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures == 0);
}

GroupedCase case_of(const Accepted& accepted, std::uint64_t seed) {
  GroupedCase test{.problem = accepted.problem, .sizes = {}, .tile = accepted.tile, .seed = seed};
  const bool by_k = accepted.problem.scaling == jit::Scaling::k1d1d;
  const std::int32_t groups = std::max(1, accepted.problem.groups);
  for (std::int32_t g = 0; g < groups; ++g) {
    const auto step =
        static_cast<std::int32_t>((seed * 37 + static_cast<std::uint64_t>(g) * 61) % 5);
    test.sizes.push_back(by_k ? 128 * step : 41 * step);
  }
  if (test.problem.layout == jit::Layout::kDense) test.sizes = {400};
  test.m = by_k ? 72 : 170;
  return test;
}

void check_dense(Gpu& gpu, const Accepted& accepted, std::uint64_t seed) {
  const std::int64_t m = 1 + static_cast<std::int64_t>(seed * 53 % 300);
  INFO("m=" << m << " " << jit::describe(accepted.problem) << " tile "
            << jit::describe(accepted.tile));
  GemmData data(gpu, {accepted.problem, m, accepted.tile, seed});
  data.fill_exact();
  data.upload();
  data.launch();
  CHECK(data.download());
  CHECK(data.mismatches() == 0);
}

}  // namespace

TEST_CASE("tiles that hostile tables got past the loader compute exactly the right bits",
          "[gpu][hostile]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const std::size_t count = number_of("KILN_TEST_TILES", by_scale<std::size_t>(24, 1000));
  const std::size_t skip = number_of("KILN_TEST_SKIP", 0);
  REQUIRE(count > 0);
  std::vector<Accepted> tiles = accepted_tiles(skip + count, gpu.engine().machine());
  tiles.erase(tiles.begin(), tiles.begin() + static_cast<std::ptrdiff_t>(skip));
  prepare_all(gpu, tiles);
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const jit::Problem& problem = tiles[i].problem;
    const bool plain =
        problem.layout == jit::Layout::kDense && problem.scaling == jit::Scaling::k1d2d;
    if (plain) {
      check_dense(gpu, tiles[i], skip + i);
    } else {
      check_exact(gpu, case_of(tiles[i], skip + i));
    }
  }
  report_figures(
      fmt::format("{} tiles accepted from hostile tables ran, 0 wrong bits, 0 writes "
                  "outside D",
                  with_commas(tiles.size())));
}

}  // namespace kiln::test
