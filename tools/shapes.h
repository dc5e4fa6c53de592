// Shapes files: the problems of a model, by layer (configs/shapes/*.json, schema in
// configs/schema/shapes.schema.json).
//
// The file's form is checked strictly and wholly before anything is done with it: a wrong type, an
// unknown or repeated key, a number out of range throw Error{kInvalidArgument} naming the place.
// Whether a problem can be computed (N a multiple of 8, accumulation into FP32 only, ...) is
// jit::validate()'s to say, problem by problem, so that one bad layer does not stop the others.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "jit/problem.h"

namespace kiln::tools {

inline constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 512;  // of N and K

struct NamedProblem {
  std::string name;
  jit::Problem problem;
  std::vector<std::int64_t> m;  // what `kiln run` measures; never empty
};

struct ShapesFile {
  std::string model;  // may be empty
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
