// A GPU made of arithmetic, for the tests of the tuner: times from a cost surface with noise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/digest.h"
#include "jit/tile.h"
#include "tools/tune_config.h"
#include "tools/tune_measure.h"
#include "tools/tune_search.h"
#include "tools/tune_space.h"

namespace kiln::tools::test {

inline const TuneTarget kTarget{{132}, {}};

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline bool is_near(double a, double b, double tolerance) { return std::abs(a - b) <= tolerance; }

// A new directory, removed with all that is in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = std::filesystem::temp_directory_path() / "kiln-tune-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct Killed : std::runtime_error {
  Killed() : std::runtime_error("killed") {}
};

class FakeGpu final : public Measurer {
 public:
  double spread = 0.06;  // of the surface around the model, to both sides
  double noise = 0.004;  // standard deviation of a sample
  std::uint64_t seed = 1;
  std::size_t first_call = 0;   // where the noise begins: a resumed run goes on
  std::size_t killed_at = ~0u;  // the call that does not return
  std::function<void(const jit::Tile&, std::size_t, TileMeasurement&)> damage;

  std::size_t calls = 0, samples = 0;
  std::set<jit::Tile> seen;

  // Between 0 and 1, a function of the words and the seed alone.
  double draw(const std::string& words) const {
    const cache::Digest digest = cache::sha256(words + "#" + std::to_string(seed));
    return (digest[0] * 65536.0 + digest[1] * 256.0 + digest[2]) / 16777216.0;
  }

  double true_us(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile) const {
    jit::Tile family = tile;
    family.stages = 4, family.raster_group = 8;
    const double off = 2 * draw(jit::describe(problem) + std::to_string(m) + describe(family)) - 1;
    const double raster = 0.02 * draw("raster" + std::to_string(tile.raster_group));
    return jit::estimate_us(problem, tile, m, jit::Machine{132}) * (1 + spread * off) *
           (1 + raster);
  }

  TileMeasurement measure(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                          int repeats) override {
    const std::size_t call = first_call + calls++;
    if (call == killed_at) throw Killed();
    seen.insert(tile);
    samples += static_cast<std::size_t>(repeats);
    std::mt19937_64 random(seed * 1'000'003 + call);
    std::normal_distribution<double> jitter(1, noise);
    TileMeasurement out;
    const double us = true_us(problem, m, tile);
    for (int i = 0; i < repeats; ++i) out.times_us.push_back(us * jitter(random));
    out.checked = true;
    if (damage) damage(tile, call, out);
    return out;
  }
};

// A configuration with these members in place of its own.
inline std::string config_text(const std::string& constraints = "{}",
                               const std::string& measuring = "{}",
                               const std::string& upper = "[16, 128, 1024]") {
  return R"({"format": 1, "machine": {"arch": "sm_90a", "num_sms": 132},
  "axes": {"block_m": [64, 128, 192, 256], "block_n": [16, 32, 64, 96, 112, 128, 160, 192],
           "warpgroups_m": [1, 2, 3], "warpgroups_n": [1, 2], "stages": [0], "cluster_m": [1, 2],
           "cluster_n": [1, 2], "raster_group": [8, 1, 16]},
  "constraints": )" +
         constraints + R"(, "intervals": {"upper": )" + upper +
         R"(, "max_rows": 4096}, "measuring": )" + measuring + "}";
}

inline jit::Problem dense(std::int64_t n, std::int64_t k) {
  jit::Problem problem;
  problem.n = n;
  problem.k = k;
  return problem;
}

}  // namespace kiln::tools::test
