#include "tools/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "tools/strict_json.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

constexpr std::size_t kMaxProblems = 10'000;
constexpr std::size_t kMaxMValues = 256;
constexpr std::size_t kMaxNameBytes = 96;
constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::size_t kMaxWordBytes = 32;

constexpr std::array<std::string_view, 6> kFileKeys = {"$schema", "format",   "model",
                                                       "source",  "defaults", "problems"};
constexpr std::array<std::string_view, 8> kDefaultKeys = {"layout", "scaling", "a",          "b",
                                                          "out",    "sfa",     "accumulate", "m"};
constexpr std::array<std::string_view, 12> kProblemKeys = {
    "name", "comment", "n", "k", "layout", "scaling", "a", "b", "out", "sfa", "accumulate", "m"};

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '+' || c == '/' || c == '-';
}

// A word from a fixed list, by the front end's own parser, so that the lists agree.
template <typename Parse>
auto parse_word(const JsonView& value, Parse parse) {
  const std::string text = value.string(kMaxTextBytes);
  // The parser repeats the word in its message: nothing unprintable or endless may reach it.
  const bool is_word =
      text.size() <= kMaxWordBytes && std::all_of(text.begin(), text.end(), is_name_character);
  if (!is_word) value.fail_value("must be a word");
  return parse(text, fmt::format("{}: {}", value.file(), value.place()));
}

std::vector<std::int64_t> read_m_values(const JsonView& list) {
  const std::size_t count = list.expect_array(1, kMaxMValues);
  std::vector<std::int64_t> values;
  for (std::size_t i = 0; i < count; ++i) {
    const JsonView element = list.at(i);
    const std::int64_t m = element.integer(0, jit::kMaxM);
    if (std::find(values.begin(), values.end(), m) != values.end()) {
      element.fail(fmt::format("{} is listed twice: remove one of them", m));
    }
    values.push_back(m);
  }
  return values;
}

// The fields that "defaults" and a problem have in common, written over what is there.
void read_common(const JsonView& object, NamedProblem& into) {
  jit::Problem& problem = into.problem;
  if (object.has("layout")) problem.layout = parse_word(object.at("layout"), jit::parse_layout);
  if (object.has("scaling")) problem.scaling = parse_word(object.at("scaling"), jit::parse_scaling);
  if (object.has("a")) problem.a = parse_word(object.at("a"), jit::parse_fp8_type);
  if (object.has("b")) problem.b = parse_word(object.at("b"), jit::parse_fp8_type);
  if (object.has("out")) problem.out = parse_word(object.at("out"), jit::parse_output_type);
  if (object.has("sfa")) problem.sfa_major = parse_word(object.at("sfa"), jit::parse_scale_major);
  if (object.has("accumulate")) problem.accumulate = object.at("accumulate").boolean();
  if (object.has("m")) into.m = read_m_values(object.at("m"));
}

std::string read_name(const JsonView& value) {
  const std::string name = value.string(kMaxTextBytes);
  const bool well_formed = !name.empty() && name.size() <= kMaxNameBytes &&
                           std::all_of(name.begin(), name.end(), is_name_character);
  if (!well_formed) {
    value.fail_value(fmt::format("must be 1 to {} letters, digits and _ . + / -", kMaxNameBytes));
  }
  return name;
}

NamedProblem read_problem(const JsonView& object, const NamedProblem& defaults) {
  object.expect_object(kProblemKeys);
  NamedProblem problem = defaults;
  problem.name = read_name(object.at("name"));
  if (object.has("comment")) object.at("comment").string(kMaxTextBytes);
  problem.problem.n = object.at("n").integer(1, kMaxExtent);
  problem.problem.k = object.at("k").integer(1, kMaxExtent);
  read_common(object, problem);
  return problem;
}

}  // namespace

ShapesFile parse_shapes(std::string_view text, const std::string& file) {
  const nlohmann::json document = parse_json(text, file);
  const JsonView root(document, file, "");
  root.expect_object(kFileKeys);
  root.at("format").integer(1, 1);
  ShapesFile shapes;
  if (root.has("$schema")) root.at("$schema").string(kMaxTextBytes);
  if (root.has("model")) shapes.model = root.at("model").string(kMaxTextBytes);
  if (root.has("source")) root.at("source").string(kMaxTextBytes);

  NamedProblem defaults;
  defaults.m = {1, 128, 4096};
  if (root.has("defaults")) {
    const JsonView object = root.at("defaults");
    object.expect_object(kDefaultKeys);
    read_common(object, defaults);
  }

  const JsonView list = root.at("problems");
  const std::size_t count = list.expect_array(1, kMaxProblems);
  std::set<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    NamedProblem problem = read_problem(list.at(i), defaults);
    if (!names.insert(problem.name).second) {
      list.at(i).at("name").fail(fmt::format(
          "{} is the name of an earlier problem: names are unique in a file", quote(problem.name)));
    }
    shapes.problems.push_back(std::move(problem));
  }
  return shapes;
}

ShapesFile load_shapes(const std::string& path) { return parse_shapes(read_file(path), path); }

nlohmann::ordered_json to_json(const jit::Problem& problem) {
  return {{"layout", jit::name(problem.layout)},
          {"scaling", jit::name(problem.scaling)},
          {"n", problem.n},
          {"k", problem.k},
          {"a", jit::name(problem.a)},
          {"b", jit::name(problem.b)},
          {"out", jit::name(problem.out)},
          {"sfa", jit::name(problem.sfa_major)},
          {"accumulate", problem.accumulate}};
}

jit::Problem problem_from_json(const nlohmann::json& object) {
  const auto word = [&](const char* key) { return object.at(key).get<std::string>(); };
  jit::Problem problem;
  problem.layout = jit::parse_layout(word("layout"), "layout");
  problem.scaling = jit::parse_scaling(word("scaling"), "scaling");
  problem.n = object.at("n").get<std::int64_t>();
  problem.k = object.at("k").get<std::int64_t>();
  problem.a = jit::parse_fp8_type(word("a"), "a");
  problem.b = jit::parse_fp8_type(word("b"), "b");
  problem.out = jit::parse_output_type(word("out"), "out");
  problem.sfa_major = jit::parse_scale_major(word("sfa"), "sfa");
  problem.accumulate = object.at("accumulate").get<bool>();
  return problem;
}

}  // namespace kiln::tools
