// Shapes files: the problems of a model, by layer (configs/shapes/*.json, schema in
// configs/schema/shapes.schema.json).
//
// The file's form is checked strictly and wholly before anything is done with it: a wrong type, an
// unknown or repeated key, a number out of range throw Error{kInvalidArgument} naming the place.
// Whether a problem can be computed (N a multiple of 8, 1d1d scales for a weight gradient, ...) is
// jit::validate()'s to say, problem by problem, so that one bad layer does not stop the others.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jit/problem.h"

namespace kiln::tools {

inline constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 512;  // of N and K

// A time that somebody else's kernel, or an earlier one, took for the problem at its first M.
struct ReferenceTime {
  std::string by;
  double us = 0;
  // grouped layouts: how much was computed in that time, of which another draw has another amount:
  // contiguous rows with padding, masked valid rows, grouped_k positions in K. 0: not said.
  std::int64_t total = 0;
};

struct NamedProblem {
  std::string name;
  jit::Problem problem;
  // What `kiln run` measures; never empty. grouped_contiguous, grouped_masked: mean rows of a
  // group.
  std::vector<std::int64_t> m;
  std::vector<ReferenceTime> references;  // for `kiln bench`
};

// The fields of a problem whose defaults follow from others.
struct LayoutFields {
  std::optional<jit::Scaling> scaling;       // grouped_k: 1d1d, else 1d2d
  std::optional<jit::ScaleMajor> sfa_major;  // 1d1d: m, else row
  std::optional<jit::GroupForm> group_form;  // jit::default_group_form()
  std::optional<std::int32_t> groups;        // dense: 1; the others need it
  std::optional<std::int32_t> alignment;     // grouped_contiguous: kDefaultAlignment, else 0
};
inline constexpr std::int32_t kDefaultAlignment = 128;

// Sets these fields of a problem that has its layout; groups stay as they are when not given.
void set_layout_fields(const LayoutFields& fields, jit::Problem& problem);

struct ShapesFile {
  std::string model;  // may be empty
  std::string gpu;    // part of the name of the GPU that the references are of; empty: of any
  std::vector<NamedProblem> problems;
};

ShapesFile load_shapes(const std::string& path);

// The same for text in memory; `file` is for the messages.
ShapesFile parse_shapes(std::string_view text, const std::string& file);

// A problem as the JSON outputs spell it, with the words of the shapes file; and back, for what
// this program wrote itself.
nlohmann::ordered_json to_json(const jit::Problem& problem);
jit::Problem problem_from_json(const nlohmann::json& object);

}  // namespace kiln::tools
