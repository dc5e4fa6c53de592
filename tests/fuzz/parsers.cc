#include "tests/fuzz/parsers.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "jit/error.h"
#include "runtime/tile_plan.h"
#include "tests/fuzz/formats.h"
#include "tools/shapes.h"
#include "tools/tune_config.h"

namespace kiln::test {
namespace {

void promise(bool kept, const char* what) {
  if (!kept) throw std::logic_error(what);
}

// ---- JSON ----

// What no parser may choke on, whatever it is for.
std::vector<std::string> hostile_json() {
  const auto repeated = [](const char* piece, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += piece;
    return text;
  };
  std::vector<std::string> texts{std::string(),
                                 "{",
                                 "null",
                                 "\"\\ud800\"",
                                 "[1e999999999]",
                                 "{\"format\":1,\"format\":1}",
                                 std::string("{\"a\0b\":1}", 9),
                                 "\xff\xfe{\0}\0",
                                 repeated("[", 200'000),
                                 repeated("{\"a\":", 200'000),
                                 repeated("[1,", 1) + repeated("1,", 400'000) + "1]",
                                 repeated("[{},", 1) + repeated("{},", 300'000) + "{}]",
                                 repeated("\"", 1) + std::string(3'000'000, 'x') + "\"",
                                 std::string(2'000'000, '9'),
                                 std::string(1'000'000, ' '),
                                 std::string((8u << 20) + 1, ' ')};
  std::string wide = "{";
  for (int i = 0; i < 100'000; ++i) wide += "\"k" + std::to_string(i) + "\":" + "0,";
  texts.push_back(wide + "\"end\":0}");
  return texts;
}

std::vector<std::string> json_seeds(std::initializer_list<const char*> files) {
  std::vector<std::string> seeds;
  for (const char* file : files) {
    std::ifstream in(std::string(KILN_CONFIGS_DIR "/") + file, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    if (seeds.back().empty()) throw std::runtime_error(std::string("cannot read configs/") + file);
  }
  for (std::string& text : hostile_json()) seeds.push_back(std::move(text));
  return seeds;
}

template <class Parse>
bool accepts(Parse&& parse) {
  try {
    parse();
    return true;
  } catch (const Error& error) {
    promise(error.status() == Status::kInvalidArgument || error.status() == Status::kUnsupported,
            "a refusal is INVALID_ARGUMENT or UNSUPPORTED");
    promise(error.what()[0] != '\0', "a refusal says why");
    return false;
  }
}

bool accepts_shapes(std::string_view text) {
  return accepts([&] {
    for (const auto& problem : tools::parse_shapes(text, "fuzzed.json").problems) {
      promise(!problem.m.empty(), "a problem has an M");
      if (!accepts([&] { jit::validate(problem.problem); })) continue;
      promise(tools::problem_from_json(tools::to_json(problem.problem)) == problem.problem,
              "a valid problem survives its JSON");
    }
  });
}

bool accepts_tune(std::string_view text) {
  return accepts([&] {
    const tools::TuneConfig config = tools::parse_tune_config(text, "fuzzed.json");
    promise(!config.axes.block_m.empty() && !config.axes.stages.empty(), "no axis is empty");
    promise(std::is_sorted(config.intervals.upper.begin(), config.intervals.upper.end()),
            "intervals ascend");
  });
}

// Whatever a table says, plans have legal tiles for every M.
bool accepts_tuned(std::string_view text) {
  return accepts([&] {
    runtime::TunedTable table = runtime::TunedTable::load(text, "fuzzed.json");
    const std::vector<runtime::TunedEntry> entries = table.file().entries;
    runtime::TunedTables tables;
    tables.add(std::move(table));
    for (std::size_t i = 0; i < std::min<std::size_t>(entries.size(), 4); ++i) {
      const jit::Problem& problem = entries[i].problem;
      if (!accepts([&] { jit::validate(problem); })) continue;
      std::int64_t next = 0;
      for (const auto& planned : runtime::plan_tiles(problem, jit::Machine{132}, tables).tiles) {
        promise(planned.interval.m_min == next, "a plan has no gap");
        promise(jit::is_legal(planned.interval.tile, problem), "a plan's tiles are legal");
        next = planned.interval.m_max + 1;
      }
      promise(next == jit::kMaxM + 1, "a plan reaches the largest M");
    }
  });
}

const std::vector<std::string_view>& json_words() {
  static const std::vector<std::string_view> words{
      "{",           "}",           "[",
      "]",           ",",           ":",
      "\"",          "null",        "-1",
      "2147483647",  "1e9",         "0.5",
      "true",        "\\u0000",     "9223372036854775807",
      "\"m\"",       "\"n\":",      "\"k\":",
      "\"layout\":", "\"groups\":", "\"intervals\":",
      "\"tile\":"};
  return words;
}

}  // namespace

std::span<const FuzzedParser> fuzzed_parsers() {
  static const std::vector<FuzzedParser> parsers{
      {"entry", accepts_entry, entry_seeds, reseal_entry, {}},
      {"bundle", accepts_bundle, bundle_seeds, reseal_bundle, {}},
      {"shapes", accepts_shapes,
       [] { return json_seeds({"shapes/deepseek-v3.json", "shapes/qwen3-32b.json"}); }, nullptr,
       json_words()},
      {"tune", accepts_tune, [] { return json_seeds({"tune/h200.json", "tune/h200-shapes.json"}); },
       nullptr, json_words()},
      {"tuned", accepts_tuned, [] { return json_seeds({"tuned/nvidia-h200.json"}); }, nullptr,
       json_words()}};
  return parsers;
}

const FuzzedParser* find_fuzzed_parser(std::string_view name) {
  for (const FuzzedParser& parser : fuzzed_parsers())
    if (parser.name == name) return &parser;
  return nullptr;
}

void run_fuzzed(const FuzzedParser& parser, std::string_view bytes) {
  parser.accepts(bytes);
  if (parser.reseal != nullptr) parser.accepts(parser.reseal(std::string(bytes)));
}

}  // namespace kiln::test
