// Tuned tables: the file and its damage, what is found for a problem, and the plan made of it.
#include "runtime/tuned_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "jit/error.h"
#include "runtime/options.h"
#include "runtime/tile_plan.h"
#include "tests/runtime/support.h"

namespace kiln::test {
namespace {

using runtime::TileSource;
using runtime::TunedEntry;
using runtime::TunedFile;
using runtime::TunedMatch;
using runtime::TunedTable;
using runtime::TunedTables;

constexpr jit::Machine kMachine{132};

jit::Tile tile(const char* text) { return jit::parse_tile(text, "tile"); }
const char* const kSmall = "64x64/1x1/s8/c1x1/r8";
const char* const kLarge = "128x128/2x1/s4/c1x1/r8";

jit::Problem dense(std::int64_t n = 4096, std::int64_t k = 7168) {
  jit::Problem p;
  p.n = n;
  p.k = k;
  return p;
}

jit::Problem contiguous(std::int32_t groups, std::int32_t alignment = 128) {
  jit::Problem p = dense();
  p.layout = jit::Layout::kGroupedContiguous;
  p.group_form = jit::GroupForm::kEnds;
  p.groups = groups;
  p.alignment = alignment;
  return p;
}

// kSmall up to M = 64, kLarge above.
TunedEntry entry(const jit::Problem& problem = dense()) {
  return {runtime::tuned_problem(problem),
          {{0, 64, tile(kSmall), 64, 3.25, tile(kLarge), 3.5},
           {65, jit::kMaxM, tile(kLarge), 4096, 123.456, {}, 0}}};
}

TunedFile file_of(std::vector<TunedEntry> entries) {
  return {"NVIDIA H200", 132,          "13.0",      "580.159",
          "0.1.0",       "2026-01-01", "by a test", std::move(entries)};
}

TunedTable table_of(std::vector<TunedEntry> entries, const std::string& source = "test.json") {
  TunedTable table = TunedTable::load(runtime::to_text(file_of(std::move(entries))), source);
  INFO(table.first_rejection());
  REQUIRE(table.num_rejected() == 0);
  return table;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  INFO(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// What load() says of a text that it refuses as a whole; "" when it does not.
std::string refusal(const std::string& text) {
  try {
    TunedTable::load(text, "test.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

// ---- The file ----

TEST_CASE("a tuned file that is written and loaded is the same, sorted and a line an entry",
          "[tuned]") {
  jit::Problem masked = dense(7168, 2048);
  masked.layout = jit::Layout::kGroupedMasked;
  masked.group_form = jit::GroupForm::kRows;
  masked.groups = 32;
  TunedFile file = file_of({entry(contiguous(8)), entry(masked), entry(dense(512)), entry()});
  file.method = "with \"quotes\", a \\ and a line\nbreak";
  const std::string text = runtime::to_text(file);
  const TunedTable table = TunedTable::load(text, "x");
  CHECK(table.num_rejected() == 0);
  CHECK(table.first_rejection().empty());
  CHECK(table.file() != file);
  std::sort(file.entries.begin(), file.entries.end(),
            [](const auto& a, const auto& b) { return a.problem < b.problem; });
  CHECK(table.file() == file);
  CHECK(runtime::to_text(table.file()) == text);
  CHECK(std::count(text.begin(), text.end(), '\n') == 10 + 1 + 4 + 1);
  const std::string empty = runtime::to_text(file_of({}));
  CHECK(TunedTable::load(empty, "x").file() == file_of({}));
}

TEST_CASE("the table that the library is built with is whole", "[tuned]") {
  const TunedTable table = TunedTable::load(runtime::builtin_tuned_text(), "built in");
  INFO(table.first_rejection());
  CHECK(table.num_rejected() == 0);
  CHECK(table.file().gpu == "NVIDIA H200");
  CHECK(table.file().num_sms == 132);
  std::ifstream shipped(KILN_TUNED_DIR "/nvidia-h200.json");
  const std::string text{std::istreambuf_iterator<char>(shipped), {}};
  CHECK(text == runtime::builtin_tuned_text());
  CHECK(text == runtime::to_text(table.file()));
}

TEST_CASE("a damaged envelope refuses the whole file and says where", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry()}));
  REQUIRE(refusal(good).empty());
  const struct {
    const char *from, *to, *complaint;
  } cases[] = {
      {"\"format\": 1", "\"format\": 2", "format: is 2, this version reads 1: use a newer library"},
      {"\"format\": 1", "\"format\": 0", "format: must be a whole number from 1"},
      {"\"format\": 1", "\"format\": \"1\"", "format: must be a whole number"},
      {"\"format\": 1", "\"form\": 1", "the key \"format\" is missing"},
      {"\"cuda\"", "\"cudas\"", "unknown key \"cudas\": did you mean \"cuda\"?"},
      {"\"cuda\": \"13.0\"", "\"cuda\": 13.0", "cuda: must be a string"},
      {"\"num_sms\":132", "\"num_sms\":0", "gpu.num_sms: must be a whole number from 1 to 1024"},
      {"\"num_sms\":132", "\"num_sms\":132,\"sm\":90", "gpu: unknown key \"sm\""},
      {"\"driver\"", "\"cuda\"", "the key \"cuda\" appears twice"},
      {"\"entries\": [", "\"entries\": {}, \"x\": [", "unknown key \"x\""},
      {"\"date\": \"2026-01-01\",\n", "", "the key \"date\" is missing"},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    const std::string said = refusal(replaced(good, c.from, c.to));
    INFO(said);
    CHECK(contains(said, c.complaint));
    CHECK(said.starts_with("test.json: "));
  }
  for (const char* text :
       {"", " ", "1", "[]", "null", "{", "{}", "\"x\"", "\xff", "{\"format\":1e999}"})
    CHECK_FALSE(refusal(text).empty());
}

TEST_CASE("a tuned file cut off anywhere is refused", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry(), entry(contiguous(4))}));
  const std::size_t end = good.find_last_of('}');
  for (std::size_t length = 0; length <= end; ++length) {
    if (!refusal(good.substr(0, length)).empty()) continue;
    FAIL("accepted the first " << length << " bytes");
  }
}

TEST_CASE("a tuned file beyond the limits of size, depth and number is refused", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry()}));
  const std::string padded = good + std::string((std::size_t{8} << 20) - good.size(), ' ');
  CHECK(refusal(padded).empty());
  CHECK(contains(refusal(padded + " "), "larger than 8.0 MiB"));
  const auto nested = [&](std::size_t depth) {
    return replaced(good, "\"entries\": [",
                    "\"entries\": [" + std::string(depth, '[') + std::string(depth, ']') + ",");
  };
  CHECK(refusal(nested(14)).empty());  // not an entry, but that is the entry's own fault
  CHECK(contains(refusal(nested(15)), "nested deeper than 16 levels"));
  CHECK(contains(refusal(nested(1'000'000)), "nested deeper than 16 levels"));
  const auto many = [&](std::size_t count) {
    std::string list;
    for (std::size_t i = 0; i < count; ++i) list += "{},";
    return replaced(good, "\"entries\": [", "\"entries\": [" + list);
  };
  CHECK(TunedTable::load(many(9'999), "x").num_rejected() == 9'999);
  CHECK(contains(refusal(many(10'000)), "entries: must be an array of 0 to 10000 elements"));
}

TEST_CASE("an entry that breaks a rule is left out and the others stay", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry(dense(512)), entry(dense(8192))}));
  const struct {
    const char *from, *to, *complaint;
  } cases[] = {
      {"\"n\":512", "\"n\":513", "n must be a multiple of 8"},
      {"\"n\":512", "\"n\":512.0", "n: must be a whole number"},
      {"\"n\":512", "\"n\":8192", "[1]: is an entry for the same problem as an earlier one"},
      {"\"n\":512", "\"n\":1e400", ""},  // no number at all: the whole file
      {"\"n\":512", "\"n\":99999999999999999999", "n: must be a whole number"},
      {"\"n\":512", "\"n\":-8", "n: must be a whole number"},
      {"\"n\":512", "\"n\":512,\"m\":1", "unknown key \"m\""},
      {"\"layout\":\"dense\"", "\"layout\":\"sparse\"", "layout must be one of"},
      {"\"layout\":\"dense\"", "\"layout\":\"grouped_k\"", "\"group_form\" is missing"},
      {"\"layout\":\"dense\"", "\"layout\":\"dense\",\"groups\":2", "groups must be 1"},
      {"\"scaling\":\"1d2d\"", "\"scaling\":\"1d1d\"", "sfa_major must be m"},
      {"\"sfa\":\"row\",", "", "the key \"sfa\" is missing"},
      {"\"accumulate\":false", "\"accumulate\":0", "accumulate: must be true or false"},
      {"\"intervals\":[", "\"intervals\":[1,", "intervals[0]: must be an object"},
      {"\"m_min\":0", "\"m_min\":-1", "m_min: must be a whole number from 0 to 2147483136"},
      {"\"m_max\":64", "\"m_max\":65", "[1].m_min: must lie behind the interval before it"},
      {"\"m_max\":64", "\"m_max\":2147483137", "m_max: must be a whole number"},
      {"\"m_min\":65", "\"m_min\":64", "must lie behind the interval before it, which ends at 64"},
      {"\"measured_m\":64", "\"measured_m\":65", "measured_m: must be a whole number from 0 to 64"},
      {"\"us\":3.25", "\"us\":0", "us: must be a number from"},
      {"\"us\":3.25", "\"us\":-1", "us: must be a number from"},
      {"\"us\":3.25", "\"us\":\"3\"", "us: must be a number from"},
      {"\"us\":3.25,", "", "the key \"us\" is missing"},
      {",\"runner_up_us\":3.5", "", "belong together"},
      {"64x64/1x1/s8/c1x1/r8", "64x64", "must be spelled in full, as 64x64/1x1/s4/c1x1/r8"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c1x1/r8 ", "must be a word"},
      {"64x64/1x1/s8/c1x1/r8", "064x64/1x1/s8/c1x1/r8", "must be spelled in full"},
      {"64x64/1x1/s8/c1x1/r8", "-64x64/1x1/s8/c1x1/r8", "block_m must be"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s32/c1x1/r8", "shared memory must be at most"},
      {"64x64/1x1/s8/c1x1/r8", "256x256/2x1/s2/c1x1/r8", "registers"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c8x2/r8", "cluster_m and cluster_n"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c1x1/r0", "raster_group must be"},
      {"64x64/1x1/s8/c1x1/r8", "2147483648x64/1x1/s8/c1x1/r8", "must look like"},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    const std::string text = replaced(good, c.from, c.to);
    if (*c.complaint == '\0') {
      CHECK_FALSE(refusal(text).empty());
      continue;
    }
    const TunedTable table = TunedTable::load(text, "test.json");
    INFO(table.first_rejection());
    CHECK(table.num_rejected() == 1);
    CHECK(table.file().entries.size() == 1);
    CHECK(contains(table.first_rejection(), c.complaint));
    CHECK(contains(table.first_rejection(), "test.json: entries["));
  }
}

TEST_CASE("an entry names at most as many tiles as a plan may have", "[tuned]") {
  const auto with_tiles = [](int count) {
    TunedEntry e{dense(), {}};
    for (int i = 0; i < count; ++i) {
      jit::Tile t = tile(kSmall);
      t.raster_group = 1 + i;
      e.intervals.push_back({i, i, t, i, 1.0, {}, 0});
    }
    return TunedTable::load(runtime::to_text(file_of({e})), "x");
  };
  CHECK(with_tiles(8).num_rejected() == 0);
  CHECK(contains(with_tiles(9).first_rejection(), "at most 8 different tiles, got 9"));
}

TEST_CASE("an entry's clusters fit into the GPU of its file", "[tuned]") {
  TunedFile file = file_of({entry()});
  file.num_sms = 1;
  file.entries[0].intervals[0].tile.cluster_n = 2;
  CHECK(contains(TunedTable::load(runtime::to_text(file), "x").first_rejection(),
                 "clusters of at most the 1 SMs"));
}

// ---- Finding ----

TEST_CASE("the exact entry is found whatever the alignment and batch_invariant", "[tuned]") {
  const TunedTable table = table_of({entry(), entry(dense(4608)), entry(contiguous(8))});
  const auto dense_found = table.find(dense(), kMachine);
  CHECK(dense_found.match == TunedMatch::kExact);
  CHECK(dense_found.intervals == entry().intervals);
  CHECK(dense_found.why == "exact entry n=4096 k=7168 of test.json");
  jit::Problem p = contiguous(8, 1);
  p.batch_invariant = true;
  CHECK(table.find(p, kMachine).match == TunedMatch::kExact);
  CHECK(table.find(p, kMachine).why == "exact entry n=4096 k=7168 groups=8 of test.json");
}

TEST_CASE("an entry that is near in N, K and groups is the nearest, and what is far is none",
          "[tuned]") {
  const TunedTable table = table_of({entry(), entry(dense(4608)), entry(contiguous(8))});
  const auto match = [&](const jit::Problem& p) { return table.find(p, kMachine).match; };
  CHECK(match(dense(4096 + 8)) == TunedMatch::kNearest);
  CHECK(contains(table.find(dense(4200), kMachine).why, "nearest entry n=4096"));
  CHECK(contains(table.find(dense(4496), kMachine).why, "nearest entry n=4608"));
  CHECK(match(dense(4096, 7168 / 2)) == TunedMatch::kNearest);
  CHECK(match(dense(4096, 7168 / 2 - 16)) == TunedMatch::kNone);
  CHECK(match(dense(4608 * 5 / 4)) == TunedMatch::kNearest);
  CHECK(match(dense(4608 * 5 / 4 + 8)) == TunedMatch::kNone);
  CHECK(match(contiguous(16)) == TunedMatch::kNearest);
  CHECK(match(contiguous(17)) == TunedMatch::kNone);
  jit::Problem labels = contiguous(8);
  labels.group_form = jit::GroupForm::kLabels;
  CHECK(match(labels) == TunedMatch::kNearest);
}

TEST_CASE("nothing is found for another kind of problem, another GPU or no problem at all",
          "[tuned]") {
  const TunedTable table = table_of({entry()});
  const auto none = [&](const jit::Problem& p, jit::Machine machine = kMachine) {
    const auto found = table.find(p, machine);
    return found.match == TunedMatch::kNone && found.intervals.empty() && !found.why.empty();
  };
  REQUIRE_FALSE(none(dense()));
  CHECK(none(dense(), {131}));
  jit::Problem p = dense();
  p.out = jit::OutputType::kF32;
  CHECK(none(p));
  p.accumulate = true;
  CHECK(none(p));
  p = dense();
  p.a = jit::Fp8Type::kE5m2;
  CHECK(none(p));
  p = dense();
  p.sfa_major = jit::ScaleMajor::kM;
  CHECK(none(p));
  p.scaling = jit::Scaling::k1d1d;
  CHECK(none(p));
  CHECK(none(contiguous(1)));
  CHECK(none(dense(0, 0)));
  CHECK(none(dense(-4096, 7168)));
}

TEST_CASE("a nearest entry with a tile that this problem cannot have is passed over", "[tuned]") {
  // It just fits beside the table of up to 256 groups; that of up to 1024 is larger.
  TunedEntry tight = entry(contiguous(256));
  const jit::Problem more = contiguous(512);
  std::optional<jit::Tile> largest;
  for (jit::Tile t = tile(kSmall); t.block_n <= 256 && !largest; t.block_n += 8) {
    for (t.stages = 2; t.stages <= 32 && !largest; ++t.stages) {
      if (jit::is_legal(t, contiguous(256)) && !jit::is_legal(t, more)) largest = t;
    }
  }
  REQUIRE(largest);
  tight.intervals[0].tile = *largest;
  const TunedTable table = table_of({tight});
  CHECK(table.find(contiguous(256), kMachine).match == TunedMatch::kExact);
  CHECK(table.find(contiguous(250), kMachine).match == TunedMatch::kNearest);
  CHECK(table.find(more, kMachine).match == TunedMatch::kNone);
}

TEST_CASE("of several tables the first exact match wins, then the first nearest", "[tuned]") {
  TunedEntry other = entry();
  other.intervals[0].us = 99;
  TunedTables tables;
  CHECK(tables.find(dense(), kMachine).why == "no tuned table for 132 SMs");
  tables.add(table_of({entry(dense(4104))}, "near.json"));
  tables.add(table_of({other}, "second.json"));
  tables.add(table_of({entry()}, "third.json"));
  const auto found = tables.find(dense(), kMachine);
  CHECK(found.match == TunedMatch::kExact);
  CHECK(contains(found.why, "second.json"));
  CHECK(found.intervals == other.intervals);
  CHECK(contains(tables.find(dense(4088), kMachine).why, "near.json"));
  const auto none = tables.find(dense(64), kMachine);
  CHECK(none.match == TunedMatch::kNone);
  CHECK(contains(none.why, "near.json"));
  CHECK(contains(none.why, "third.json"));
}

// ---- The plan ----

namespace {

// The rules of TilePlan, which hold whatever the tables say.
std::string broken_rule(const runtime::TilePlan& plan, const jit::Problem& problem) {
  std::set<jit::Tile> tiles;
  std::int64_t next = 0;
  for (const auto& [interval, source] : plan.tiles) {
    if (interval.m_min != next || interval.m_max < interval.m_min) return "gap or overlap";
    if (!jit::is_legal(interval.tile, problem)) return "illegal tile";
    if (jit::parse_tile(jit::describe(interval.tile), "") != interval.tile) return "odd tile";
    tiles.insert(interval.tile);
    next = interval.m_max + 1;
  }
  if (next != jit::kMaxM + 1) return "does not reach the largest M";
  if (tiles.size() > jit::kMaxPlanTiles) return "too many tiles";
  if (problem.batch_invariant && plan.tiles.size() != 1) return "not one tile";
  return "";
}

TunedTables tables_of(std::vector<TunedEntry> entries) {
  TunedTables tables;
  tables.add(table_of(std::move(entries)));
  return tables;
}

}  // namespace

TEST_CASE("a plan has the tuned intervals, and the default choice in their gaps", "[tuned]") {
  const auto defaults = jit::plan_tiles(dense(), kMachine);
  const runtime::TilePlan without = runtime::plan_tiles(dense(), kMachine, {});
  REQUIRE(without.tiles.size() == defaults.size());
  for (std::size_t i = 0; i < defaults.size(); ++i)
    CHECK(without.tiles[i] == runtime::PlannedTile{defaults[i], TileSource::kDefault});
  CHECK(without.match == TunedMatch::kNone);

  const runtime::TilePlan whole = runtime::plan_tiles(dense(), kMachine, tables_of({entry()}));
  CHECK(whole.match == TunedMatch::kExact);
  CHECK(whole.tiles == std::vector<runtime::PlannedTile>{
                           {{0, 64, tile(kSmall)}, TileSource::kTunedExact},
                           {{65, jit::kMaxM, tile(kLarge)}, TileSource::kTunedExact}});

  TunedEntry middle{dense(), {{300, 20'000, tile(kLarge), 4096, 100, {}, 0}}};
  const runtime::TilePlan gaps = runtime::plan_tiles(dense(), kMachine, tables_of({middle}));
  CHECK(broken_rule(gaps, dense()).empty());
  for (const auto& [interval, source] : gaps.tiles) {
    CHECK((source == TileSource::kTunedExact) == (interval.m_min == 300));
    if (source == TileSource::kTunedExact) continue;
    const auto same = std::find_if(defaults.begin(), defaults.end(), [&](const auto& d) {
      return d.m_min <= interval.m_min && interval.m_max <= d.m_max;
    });
    REQUIRE(same != defaults.end());
    CHECK(same->tile == interval.tile);
  }
}

TEST_CASE("where the default choice in the gaps would be too many tiles the tuned ones reach over",
          "[tuned]") {
  TunedEntry e{dense(), {}};
  for (int i = 0; i < 8; ++i) {
    jit::Tile t = tile(kSmall);
    t.raster_group = 20 + i;
    e.intervals.push_back({10 + 100 * i, 50 + 100 * i, t, 50 + 100 * i, 1.0, {}, 0});
  }
  const runtime::TilePlan plan = runtime::plan_tiles(dense(), kMachine, tables_of({e}));
  CHECK(broken_rule(plan, dense()).empty());
  REQUIRE(plan.tiles.size() == 8);
  CHECK(plan.tiles[1].interval == jit::TileInterval{110, 209, e.intervals[1].tile});
}

TEST_CASE("a batch_invariant problem has one tile for every M, tuned or not", "[tuned]") {
  jit::Problem p = dense();
  p.batch_invariant = true;
  const auto only = [&](const TunedTables& tables) {
    const runtime::TilePlan plan = runtime::plan_tiles(p, kMachine, tables);
    CHECK(broken_rule(plan, p).empty());
    REQUIRE(plan.tiles.size() == 1);
    return plan.tiles[0];
  };
  CHECK(only({}).interval.tile == jit::choose_tile(p, jit::middle_m(p), kMachine));
  CHECK(only({}).source == TileSource::kDefault);
  CHECK(only(tables_of({entry()})).interval.tile == tile(kLarge));
  CHECK(only(tables_of({entry()})).source == TileSource::kTunedExact);
  TunedEntry below{dense(), {{0, 64, tile(kSmall), 64, 3.25, {}, 0}}};
  CHECK(only(tables_of({below})).interval.tile == tile(kSmall));
}

TEST_CASE("batch_invariant decides no kernel: canonical problems and their programs are the same",
          "[tuned]") {
  for (const jit::Problem& p : {dense(), contiguous(8)}) {
    jit::Problem fixed = p;
    fixed.batch_invariant = true;
    CHECK(fixed != p);
    CHECK(jit::describe(fixed) == jit::describe(p) + " batch_invariant");
    CHECK(jit::canonical(fixed) == jit::canonical(p));
    CHECK(jit::is_legal(tile(kLarge), fixed));
  }
}

// ---- Engines ----

namespace {

struct TunedFixture {
  explicit TunedFixture(TunedEntry builtin = entry())
      : builtin_text(runtime::to_text(file_of({std::move(builtin)}))) {}

  // Through the C boundary: `field` is tuned_path, `variable` KILN_TUNED.
  EngineHandle engine(const char* field, std::optional<std::string> variable = {},
                      std::int32_t num_sms = 132) {
    kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
    options.num_sms = num_sms;
    options.tuned_path = field;
    options.log_level = KILN_LOG_WARNING;
    options.log_callback = [](std::int32_t, const char* message, void* user) {
      static_cast<std::vector<std::string>*>(user)->push_back(message);
    };
    options.log_user = &warnings;
    runtime::Environment environment;
    environment.tuned = std::move(variable);
    runtime::EngineHooks hooks = machine.hooks();
    hooks.tuned_text = builtin_text;
    kiln_engine* handle = nullptr;
    REQUIRE(runtime::create_engine(&options, environment, hooks, &handle) == KILN_OK);
    return EngineHandle(handle);
  }

  static kiln_plan_description describe(const EngineHandle& engine, std::int64_t m = 1,
                                        std::int64_t n = 4096, std::int32_t batch_invariant = 0,
                                        const kiln_tile* tile = nullptr) {
    kiln_problem problem = KILN_PROBLEM_INIT;
    problem.n = n;
    problem.k = 7168;
    problem.batch_invariant = batch_invariant;
    const PlanHandle plan = make_plan(engine, problem, tile);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(plan.get(), m, &description) == KILN_OK);
    return description;
  }

  std::string write_table(const std::string& name, int stages) {
    TunedEntry e = entry();
    e.intervals[0].tile.stages = stages;
    write(dir / name, runtime::to_text(file_of({e})));
    return dir / name;
  }

  FakeMachine machine;
  TempDir dir;
  std::string builtin_text;
  std::vector<std::string> warnings;
};

}  // namespace

TEST_CASE("a plan describes the tuned tile, how well it matches and whose it is", "[tuned]") {
  TunedFixture f;
  const EngineHandle engine = f.engine("");
  const kiln_plan_description exact = f.describe(engine);
  CHECK(exact.source == 2);
  CHECK(exact.tile.block_m == 64);
  CHECK(exact.m_max == 64);
  CHECK(contains(exact.reason, "is tuned for M in [0, 64] on 132 SMs: exact entry n=4096 k=7168"));
  CHECK(contains(exact.reason, "built-in table"));
  const kiln_plan_description near = f.describe(engine, 1, 4104);
  CHECK(near.source == 3);
  CHECK(contains(near.reason, "nearest entry n=4096"));
  const kiln_plan_description none = f.describe(engine, 1, 1024);
  CHECK(none.source == 0);
  CHECK(contains(none.reason, "default choice"));
  CHECK(contains(none.reason, "no tuned entry"));
  const kiln_tile own = KILN_TILE_INIT;
  CHECK(f.describe(engine, 1, 4096, 0, &own).source == 1);
  const kiln_plan_description fixed = f.describe(engine, 1, 4096, 1);
  CHECK(fixed.source == 2);
  CHECK(fixed.tile.block_m == 128);
  CHECK(fixed.m_max == jit::kMaxM);
  CHECK(contains(fixed.reason, "batch_invariant"));
  CHECK(f.warnings.empty());
}

TEST_CASE("user tables go before the built-in one, and the option before KILN_TUNED", "[tuned]") {
  TunedFixture f;
  const std::string five = f.write_table("5.json", 5), six = f.write_table("6.json", 6);
  CHECK(f.describe(f.engine(nullptr)).tile.stages == 8);
  CHECK(f.describe(f.engine(nullptr, five)).tile.stages == 5);
  CHECK(f.describe(f.engine(nullptr, five + ":" + six)).tile.stages == 5);
  CHECK(f.describe(f.engine(nullptr, ":" + six + "::" + five)).tile.stages == 6);
  CHECK(f.describe(f.engine(six.c_str(), five)).tile.stages == 6);
  CHECK(f.describe(f.engine("", five)).tile.stages == 8);
  CHECK(f.describe(f.engine("off", five)).source == 0);
  CHECK(f.describe(f.engine(nullptr, "off")).source == 0);
  CHECK(contains(f.describe(f.engine(five.c_str())).reason, "5.json"));
  CHECK(f.warnings.empty());
}

TEST_CASE("a tuned file that cannot be used is one warning, and the others serve", "[tuned]") {
  TunedFixture f;
  const std::string six = f.write_table("6.json", 6);
  const std::string good = runtime::to_text(file_of({entry()}));
  const std::string bad = f.dir / "bad.json";
  const auto stages_with = [&](const std::string& text, std::int32_t num_sms = 132) {
    write(bad, text);
    f.warnings.clear();
    return f.describe(f.engine((bad + ":" + six).c_str(), {}, num_sms)).tile.stages;
  };
  for (const std::string& text :
       {std::string(), good.substr(0, good.size() / 2), std::string("\0\0\0", 3),
        replaced(good, "\"format\": 1", "\"format\": 7"),
        replaced(good, "\"num_sms\":132", "\"num_sms\":78"),
        replaced(good, "\"layout\"", "\"lay\\nout\"")}) {
    INFO(text);
    CHECK(stages_with(text) == 6);
    REQUIRE(f.warnings.size() == 1);
    CHECK(contains(f.warnings[0], "tuned tiles: "));
    CHECK(contains(f.warnings[0], "bad.json"));
    CHECK(contains(f.warnings[0], "ignored"));
  }
  f.warnings.clear();
  CHECK(f.describe(f.engine((f.dir.path() + ":/no/such/file:" + six).c_str())).tile.stages == 6);
  CHECK(f.warnings.size() == 2);  // a directory, and nothing
}

TEST_CASE("the built-in table is for its GPU alone, without a word on others", "[tuned]") {
  TunedFixture f;
  CHECK(f.describe(f.engine("", {}, 78)).source == 0);
  CHECK(f.warnings.empty());
}

TEST_CASE("a launch of an older program has no batch_invariant and no tuned_path", "[tuned]") {
  TunedFixture f;
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.tuned_path = reinterpret_cast<const char*>(1);  // behind its size: must not be read
  options.struct_size = offsetof(kiln_engine_options, tuned_path);
  const EngineHandle engine = make_engine(f.machine, options);
  kiln_problem problem = small_problem();
  problem.struct_size = offsetof(kiln_problem, batch_invariant);
  problem.batch_invariant = problem.reserved = 7;
  CHECK(make_plan(engine, problem) != nullptr);
  problem.struct_size = sizeof(problem);
  kiln_plan* plan = nullptr;
  CHECK(kiln_plan_create(engine.get(), &problem, nullptr, &plan) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("batch_invariant must be 0 or 1, got 7"));
  problem.batch_invariant = 1;
  CHECK(kiln_plan_create(engine.get(), &problem, nullptr, &plan) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("reserved must be 0, got 7"));
}

// ---- Hostile entries ----

namespace {

// Values that are right, at an edge, or plainly wrong.
class Hostile {
 public:
  explicit Hostile(std::uint32_t seed) : random_(seed) {}

  std::uint32_t below(std::uint32_t count) { return random_() % count; }
  bool one_in(std::uint32_t count) { return below(count) == 0; }

  std::string number(std::int64_t usual) {
    if (!one_in(60)) return fmt::to_string(usual);
    static const char* const kOdd[] = {"-1",
                                       "0",
                                       "1.5",
                                       "1e3",
                                       "2147483136",
                                       "2147483137",
                                       "9223372036854775807",
                                       "18446744073709551615",
                                       "1e300",
                                       "null",
                                       "true",
                                       "\"8\"",
                                       "[]",
                                       "{}",
                                       "-9223372036854775808"};
    return kOdd[below(std::size(kOdd))];
  }

  template <std::size_t kCount>
  std::string word(const char* const (&usual)[kCount]) {
    if (one_in(60)) return one_in(2) ? "\"\\u0000%s%n\"" : number(7);
    return fmt::format("\"{}\"", usual[below(kCount)]);
  }

  std::int32_t dimension(std::initializer_list<std::int32_t> usual) {
    static constexpr std::int32_t kOdd[] = {-2147483647 - 1, -128,      -1, 0, 3, 63,
                                            1 << 20,         2147483647};
    if (one_in(40)) return kOdd[below(std::size(kOdd))];
    return usual.begin()[below(static_cast<std::uint32_t>(usual.size()))];
  }

  std::string tile_text() {
    if (one_in(200)) return "\"64x64/\"";
    const jit::Tile t{dimension({64, 64, 128, 128, 192, 256}),
                      dimension({16, 32, 64, 64, 96, 128, 128, 160, 192, 256}),
                      dimension({1, 1, 2, 2, 3}),
                      dimension({1, 1, 1, 2}),
                      dimension({2, 3, 4, 4, 5, 8, 16}),
                      dimension({1, 1, 1, 2, 4}),
                      dimension({1, 1, 1, 2, 8}),
                      dimension({1, 8, 8, 16, 1024})};
    return fmt::format("\"{}\"", jit::describe(t));
  }

  std::string interval(std::int64_t& next) {
    const std::int64_t m_min = one_in(40) ? next - 5 : next + (one_in(3) ? below(100) : 0);
    const std::int64_t m_max = one_in(8) ? jit::kMaxM : m_min + below(2000);
    next = m_max + 1;
    std::string text =
        fmt::format(R"({{"m_min":{},"m_max":{},"tile":{},"measured_m":{},"us":{})", number(m_min),
                    number(m_max), tile_text(), number(m_max), one_in(80) ? number(-3) : "12.5");
    if (one_in(4)) text += fmt::format(R"(,"runner_up":{},"runner_up_us":9)", tile_text());
    if (one_in(100)) text += ",\"extra\":1";
    return text + "}";
  }

  std::string entry(const jit::Problem& p) {
    std::string text = fmt::format(
        R"({{"layout":"{}","scaling":"{}","n":{},"k":{},"a":{},"b":{},"out":{},"sfa":"{}","accumulate":{})",
        jit::name(p.layout), jit::name(p.scaling), number(p.n), number(p.k), word({"e4m3"}),
        word({"e4m3"}), word({"bf16"}), jit::name(p.sfa_major), one_in(60) ? "1" : "false");
    if (jit::is_grouped(p))
      text += fmt::format(R"(,"group_form":"{}","groups":{})", jit::name(p.group_form),
                          number(p.groups));
    text += ",\"intervals\":[";
    std::int64_t next = 0;
    const std::uint32_t count = one_in(50) ? below(70) : 1 + below(2);
    for (std::uint32_t i = 0; i < count; ++i)
      text += fmt::format("{}{}", i == 0 ? "" : ",", interval(next));
    return text + (one_in(200) ? "],\"n\":8}" : "]}");
  }

  // Damage to single bytes of a whole file.
  void vandalise(std::string& text) {
    for (std::uint32_t i = 0, count = 1 + below(4); i < count; ++i) {
      const std::size_t at = below(static_cast<std::uint32_t>(text.size()));
      switch (below(3)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        default:
          text.insert(at, text, below(static_cast<std::uint32_t>(text.size())), below(40));
          break;
      }
    }
  }

 private:
  std::mt19937 random_;
};

jit::Problem random_problem(Hostile& h) {
  jit::Problem p;
  p.layout = static_cast<jit::Layout>(h.below(4));
  p.n = 8 * (1 + h.below(600));
  p.k = 128 * (1 + h.below(40));
  p.group_form = jit::default_group_form(p.layout);
  if (p.layout == jit::Layout::kGroupedK || (p.layout == jit::Layout::kDense && h.one_in(3))) {
    p.scaling = jit::Scaling::k1d1d;
    p.sfa_major = jit::ScaleMajor::kM;
  }
  if (jit::is_grouped(p)) p.groups = static_cast<std::int32_t>(1 + h.below(jit::kMaxGroups));
  if (p.layout == jit::Layout::kGroupedContiguous) p.alignment = 1 << h.below(11);
  return p;
}

struct Tally {
  std::size_t entries = 0, accepted = 0, matched = 0, refused_files = 0;
};

// One file of hostile entries: loads, and asks for every problem that it was written for and for
// neighbours of it.
void try_file(Hostile& h, bool vandalise, Tally& tally) {
  constexpr int kEntries = 50;
  std::vector<jit::Problem> problems;
  std::string text = runtime::to_text(file_of({}));
  std::string list;
  for (int i = 0; i < kEntries; ++i) {
    problems.push_back(random_problem(h));
    list += fmt::format("{}{}", i == 0 ? "" : ",", h.entry(problems.back()));
  }
  text = replaced(text, "[]", fmt::format("[{}]", list));
  if (vandalise) h.vandalise(text);
  tally.entries += kEntries;
  TunedTables tables;
  try {
    TunedTable table = TunedTable::load(text, "hostile");
    tally.accepted += table.file().entries.size();
    tables.add(std::move(table));
  } catch (const Error&) {
    ++tally.refused_files;
    return;
  }
  for (jit::Problem p : problems) {
    if (h.one_in(2)) p.n += 8 * h.below(16);
    if (h.one_in(2) && jit::is_grouped(p)) p.groups = std::min(p.groups * 2, jit::kMaxGroups);
    p.batch_invariant = h.one_in(4);
    const auto found = tables.find(p, kMachine);
    for (const auto& interval : found.intervals) {
      if (!jit::is_legal(interval.tile, p)) FAIL(jit::describe(interval.tile));
    }
    if (found.match == TunedMatch::kNone) continue;
    ++tally.matched;
    const std::string rule = broken_rule(runtime::plan_tiles(p, kMachine, tables), p);
    if (!rule.empty()) FAIL(rule << ": " << jit::describe(p) << "\n" << text);
  }
}

}  // namespace

TEST_CASE("of 120,000 random and hostile entries none gets an illegal tile into a plan",
          "[tuned]") {
  Tally clean, damaged;
  for (std::uint32_t seed = 0; seed < 2'000; ++seed) {
    Hostile h(seed);
    INFO("seed " << seed);
    try_file(h, false, clean);
  }
  for (std::uint32_t seed = 10'000; seed < 10'400; ++seed) {
    Hostile h(seed);
    INFO("seed " << seed);
    try_file(h, true, damaged);
  }
  // The test would prove nothing if all were refused, or none.
  WARN(clean.entries << " entries: " << clean.accepted << " accepted, " << clean.matched
                     << " matched, " << clean.refused_files << " files refused; damaged: "
                     << damaged.accepted << " accepted, " << damaged.refused_files << " refused");
  CHECK(clean.entries + damaged.entries == 120'000);
  CHECK(clean.accepted > 3'000);
  CHECK(clean.accepted < clean.entries / 2);
  CHECK(clean.matched > 3'000);
  CHECK(damaged.accepted > 100);
  CHECK(damaged.refused_files > 100);
}

}  // namespace kiln::test
