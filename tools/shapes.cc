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

constexpr std::array<std::string_view, 7> kFileKeys = {"$schema", "format",   "model",   "source",
                                                       "gpu",     "defaults", "problems"};
constexpr std::array<std::string_view, 11> kDefaultKeys = {
    "layout",     "scaling", "a",          "b",      "out",      "sfa",
    "accumulate", "m",       "group_form", "groups", "alignment"};
constexpr std::array<std::string_view, 16> kProblemKeys = {
    "name", "comment", "n",          "k", "layout",     "scaling", "a",         "b",
    "out",  "sfa",     "accumulate", "m", "group_form", "groups",  "alignment", "references"};
constexpr std::array<std::string_view, 3> kReferenceKeys = {"by", "us", "total"};
constexpr std::size_t kMaxReferences = 8;
constexpr double kMinReferenceUs = 0.001;
constexpr double kMaxReferenceUs = 1e9;

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

// What "defaults" says, and a problem on top of it.
struct Fields {
  NamedProblem named;
  LayoutFields layout;
};

// The fields that "defaults" and a problem have in common, written over what is there.
void read_common(const JsonView& object, Fields& into) {
  jit::Problem& problem = into.named.problem;
  LayoutFields& layout = into.layout;
  if (object.has("layout")) problem.layout = parse_word(object.at("layout"), jit::parse_layout);
  if (object.has("a")) problem.a = parse_word(object.at("a"), jit::parse_fp8_type);
  if (object.has("b")) problem.b = parse_word(object.at("b"), jit::parse_fp8_type);
  if (object.has("out")) problem.out = parse_word(object.at("out"), jit::parse_output_type);
  if (object.has("accumulate")) problem.accumulate = object.at("accumulate").boolean();
  if (object.has("m")) into.named.m = read_m_values(object.at("m"));
  if (object.has("scaling")) layout.scaling = parse_word(object.at("scaling"), jit::parse_scaling);
  if (object.has("sfa")) layout.sfa_major = parse_word(object.at("sfa"), jit::parse_scale_major);
  if (object.has("group_form"))
    layout.group_form = parse_word(object.at("group_form"), jit::parse_group_form);
  if (object.has("groups"))
    layout.groups = static_cast<std::int32_t>(object.at("groups").integer(1, jit::kMaxGroups));
  if (object.has("alignment"))
    layout.alignment =
        static_cast<std::int32_t>(object.at("alignment").integer(0, jit::kMaxAlignment));
}

bool takes(jit::Layout layout, jit::GroupForm form) {
  switch (form) {
    case jit::GroupForm::kNone:
      return layout == jit::Layout::kDense;
    case jit::GroupForm::kLabels:
      return layout == jit::Layout::kGroupedContiguous;
    case jit::GroupForm::kRows:
      return layout == jit::Layout::kGroupedMasked;
    case jit::GroupForm::kPacked:
      return layout == jit::Layout::kGroupedK;
    case jit::GroupForm::kEnds:
      return layout == jit::Layout::kGroupedContiguous || layout == jit::Layout::kGroupedK;
  }
  return false;
}

// One file holds problems of several layouts: a default that a problem's layout, or its scaling,
// does not take is not meant for it. `own_scaling` is what the problem itself says.
void drop_foreign_defaults(const jit::Problem& problem, std::optional<jit::Scaling> own_scaling,
                           LayoutFields& defaults) {
  const bool k_groups = problem.layout == jit::Layout::kGroupedK;
  const jit::Scaling usual = k_groups ? jit::Scaling::k1d1d : jit::Scaling::k1d2d;
  if (jit::is_grouped(problem)) defaults.scaling = usual;
  const jit::Scaling scaling = own_scaling.value_or(defaults.scaling.value_or(usual));
  if (scaling == jit::Scaling::k1d1d) defaults.sfa_major.reset();
  if (defaults.group_form && !takes(problem.layout, *defaults.group_form))
    defaults.group_form.reset();
  if (!jit::is_grouped(problem)) defaults.groups.reset();
  if (problem.layout != jit::Layout::kGroupedContiguous) defaults.alignment.reset();
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

ReferenceTime read_reference(const JsonView& object) {
  object.expect_object(kReferenceKeys);
  ReferenceTime reference;
  const JsonView by = object.at("by");
  reference.by = by.string(kMaxTextBytes);
  const bool printable = std::all_of(reference.by.begin(), reference.by.end(),
                                     [](char c) { return c >= ' ' && c <= '~'; });
  if (reference.by.empty() || reference.by.size() > kMaxNameBytes || !printable) {
    by.fail_value(fmt::format("must be 1 to {} printable ASCII characters", kMaxNameBytes));
  }
  reference.us = object.at("us").number(kMinReferenceUs, kMaxReferenceUs);
  if (object.has("total")) reference.total = object.at("total").integer(0, jit::kMaxM);
  return reference;
}

NamedProblem read_problem(const JsonView& object, const Fields& defaults) {
  object.expect_object(kProblemKeys);
  Fields fields = defaults;
  jit::Problem& problem = fields.named.problem;
  fields.named.name = read_name(object.at("name"));
  if (object.has("comment")) object.at("comment").string(kMaxTextBytes);
  if (object.has("references")) {
    const JsonView list = object.at("references");
    const std::size_t count = list.expect_array(0, kMaxReferences);
    for (std::size_t i = 0; i < count; ++i)
      fields.named.references.push_back(read_reference(list.at(i)));
  }
  problem.n = object.at("n").integer(1, kMaxExtent);
  problem.k = object.at("k").integer(1, kMaxExtent);
  if (object.has("layout")) problem.layout = parse_word(object.at("layout"), jit::parse_layout);
  std::optional<jit::Scaling> own_scaling;
  if (object.has("scaling")) own_scaling = parse_word(object.at("scaling"), jit::parse_scaling);
  drop_foreign_defaults(problem, own_scaling, fields.layout);
  read_common(object, fields);
  if (jit::is_grouped(problem) && !fields.layout.groups) {
    object.fail(fmt::format("the key \"groups\" is missing: layout {} needs it",
                            jit::name(problem.layout)));
  }
  set_layout_fields(fields.layout, problem);
  return fields.named;
}

}  // namespace

void set_layout_fields(const LayoutFields& fields, jit::Problem& problem) {
  using jit::Layout;
  const bool k_groups = problem.layout == Layout::kGroupedK;
  problem.scaling = fields.scaling.value_or(k_groups ? jit::Scaling::k1d1d : jit::Scaling::k1d2d);
  const bool is_1d1d = problem.scaling == jit::Scaling::k1d1d;
  problem.sfa_major =
      fields.sfa_major.value_or(is_1d1d ? jit::ScaleMajor::kM : jit::ScaleMajor::kRow);
  problem.group_form = fields.group_form.value_or(jit::default_group_form(problem.layout));
  problem.groups = fields.groups.value_or(problem.groups);
  const bool is_contiguous = problem.layout == Layout::kGroupedContiguous;
  problem.alignment = fields.alignment.value_or(is_contiguous ? kDefaultAlignment : 0);
}

ShapesFile parse_shapes(std::string_view text, const std::string& file) {
  const nlohmann::json document = parse_json(text, file);
  const JsonView root(document, file, "");
  root.expect_object(kFileKeys);
  root.at("format").integer(1, 1);
  ShapesFile shapes;
  if (root.has("$schema")) root.at("$schema").string(kMaxTextBytes);
  if (root.has("model")) shapes.model = root.at("model").string(kMaxTextBytes);
  if (root.has("source")) root.at("source").string(kMaxTextBytes);
  if (root.has("gpu")) shapes.gpu = root.at("gpu").string(kMaxNameBytes);

  Fields defaults;
  defaults.named.m = {1, 128, 4096};
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
  nlohmann::ordered_json object = {{"layout", jit::name(problem.layout)},
                                   {"scaling", jit::name(problem.scaling)},
                                   {"n", problem.n},
                                   {"k", problem.k},
                                   {"a", jit::name(problem.a)},
                                   {"b", jit::name(problem.b)},
                                   {"out", jit::name(problem.out)},
                                   {"sfa", jit::name(problem.sfa_major)},
                                   {"accumulate", problem.accumulate}};
  if (jit::is_grouped(problem)) {
    object["group_form"] = jit::name(problem.group_form);
    object["groups"] = problem.groups;
  }
  if (problem.layout == jit::Layout::kGroupedContiguous) object["alignment"] = problem.alignment;
  if (problem.batch_invariant) object["batch_invariant"] = true;
  return object;
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
  if (jit::is_grouped(problem)) {
    problem.group_form = jit::parse_group_form(word("group_form"), "group_form");
    problem.groups = object.at("groups").get<std::int32_t>();
  }
  if (problem.layout == jit::Layout::kGroupedContiguous)
    problem.alignment = object.at("alignment").get<std::int32_t>();
  problem.batch_invariant = object.value("batch_invariant", false);
  return problem;
}

}  // namespace kiln::tools
