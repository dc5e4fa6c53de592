#include "jit/problem.h"

#include <limits>

#include "jit/error.h"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

Problem good() { return {.n = 7168, .k = 2048}; }

// The message of validate(), empty when the problem is good.
std::string complaint(const Problem& problem) {
  try {
    validate(problem);
    return {};
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
}

bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos) return false;
  return true;
}

}  // namespace

TEST_CASE("problems of real models are valid, down to the smallest sizes", "[problem]") {
  CHECK(complaint(good()).empty());
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{8, 16},
                             {576, 7168},
                             {2112, 7168},
                             {7168, 576},
                             {73728, 36864},
                             {36864, 128}}) {
    Problem p = good();
    p.n = n;
    p.k = k;
    CHECK(complaint(p).empty());
  }
}

TEST_CASE("a bad n or k is named with its value, the rule and the size to pad to", "[problem]") {
  Problem p = good();
  p.k = 1000;
  CHECK(mentions(complaint(p), {"k must be a multiple of 16", "got 1000", "1008"}));
  p = good();
  p.n = 7;
  CHECK(mentions(complaint(p), {"n must be a multiple of 8", "got 7", "to 8"}));
  for (const std::int64_t bad :
       {std::int64_t{0}, std::int64_t{-8}, std::int64_t{1} << 31,
        std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()}) {
    p = good();
    p.n = bad;
    CHECK(mentions(complaint(p), {"n must be in 8..", std::to_string(bad).c_str()}));
    p = good();
    p.k = bad;
    CHECK(mentions(complaint(p), {"k must be in 16..", std::to_string(bad).c_str()}));
  }
}

TEST_CASE("accumulation into BF16 is refused with a remedy", "[problem]") {
  Problem p = good();
  p.accumulate = true;
  CHECK(mentions(complaint(p), {"accumulate", "f32", "bf16"}));
  p.out = OutputType::kF32;
  CHECK(complaint(p).empty());
}

TEST_CASE("enumeration values outside their range are refused", "[problem]") {
  Problem p = good();
  p.a = static_cast<Fp8Type>(7);
  CHECK(mentions(complaint(p), {"a must be one of", "e4m3", "e5m2", "got 7"}));
  p = good();
  p.layout = static_cast<Layout>(9);
  CHECK(mentions(complaint(p), {"layout", "dense", "got 9"}));
  p = good();
  p.out = static_cast<OutputType>(5);
  CHECK(mentions(complaint(p), {"out", "bf16", "f32"}));
}

TEST_CASE("names and their parsers are inverse, and a wrong word lists the right ones",
          "[problem]") {
  for (const Fp8Type type : {Fp8Type::kE4m3, Fp8Type::kE5m2})
    CHECK(parse_fp8_type(name(type), "--a") == type);
  for (const OutputType type : {OutputType::kBf16, OutputType::kF32})
    CHECK(parse_output_type(name(type), "--out") == type);
  for (const ScaleMajor major : {ScaleMajor::kRow, ScaleMajor::kM})
    CHECK(parse_scale_major(name(major), "--sfa") == major);
  CHECK(parse_layout("dense", "layout") == Layout::kDense);
  CHECK(parse_scaling("1d2d", "scaling") == Scaling::k1d2d);
  CHECK_THROWS_WITH(parse_fp8_type("fp8", "problems[3].a"),
                    "problems[3].a must be one of e4m3, e5m2; got \"fp8\"");
}
