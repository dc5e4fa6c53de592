// The two-way casts of kiln_quantize on the fake driver: what reaches the kernel, and what is
// refused with which words.
#include <functional>
#include <string>
#include <vector>

#include "templates/params.cuh"
#include "tests/runtime/launch_support.h"
#include "tests/runtime/support.h"

namespace kiln::test {
namespace {

float* at(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

struct Fixture : FakeMachine {
  EngineHandle engine = make_engine(*this, quiet_options());

  static kiln_quantize_problem problem(int granularity, int major, int two_way = 1) {
    kiln_quantize_problem result = KILN_QUANTIZE_PROBLEM_INIT;
    result.granularity = granularity;
    result.scale_major = major;
    result.two_way = two_way;
    return result;
  }
  QuantizerHandle make(int granularity, int major, int two_way = 1) const {
    const kiln_quantize_problem asked = problem(granularity, major, two_way);
    kiln_quantizer* quantizer = nullptr;
    const kiln_status status = kiln_quantizer_create(engine.get(), &asked, &quantizer);
    INFO(kiln_last_error());
    REQUIRE(status == KILN_OK);
    return QuantizerHandle(quantizer);
  }
  device::QuantizeParams launched() const { return launched_params<device::QuantizeParams>(cuda); }
};

// Every stride as small as the rules allow, for 1x128 scales in rows.
kiln_quantize_operands tight_operands() {
  kiln_quantize_operands o = KILN_QUANTIZE_OPERANDS_INIT;
  o.rows = 1000;
  o.cols = 1040;
  o.in = at(0x10000000);
  o.ld_in = 1040;
  o.out = at(0x20000000);
  o.ld_out = 1040;
  o.scales = at(0x30000004);
  o.ld_scales = 9;
  o.out_t = at(0x40000000);
  o.ld_out_t = 1008;
  o.scales_t = at(0x50000004);
  o.ld_scales_t = 8;
  return o;
}

}  // namespace

TEST_CASE("a two-way cast is launched with one CTA per block of 128 x 128", "[runtime]") {
  const Fixture f;
  const kiln_quantize_operands o = tight_operands();
  const QuantizerHandle rows = f.make(KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR);
  REQUIRE(kiln_quantizer_prepare(rows.get()) == KILN_OK);
  REQUIRE(kiln_quantize(rows.get(), &o, kStream) == KILN_OK);
  const FakeLaunch& launch = f.cuda.last_launch;
  CHECK((launch.grid_x == 8 * 9 && launch.grid_y == 1 && launch.threads == 256));
  CHECK(launch.stream == kStream);
  CHECK(std::string(launch.kernel).find("_two_way") != std::string::npos);
  const device::QuantizeParams p = f.launched();
  CHECK((p.in == o.in && p.ld_in == 1040 && p.rows == 1000 && p.cols == 1040));
  CHECK((p.out == o.out && p.ld_out == 1040 && p.scales == o.scales && p.ld_scales == 9));
  CHECK((p.out_t == o.out_t && p.ld_out_t == 1008));
  CHECK((p.scales_t == o.scales_t && p.ld_scales_t == 8));
}

TEST_CASE("the strides of a two-way cast's scales follow from the blocks and from scale_major",
          "[runtime]") {
  const Fixture f;
  struct Case {
    int granularity, major;
    std::int64_t ld_scales, ld_scales_t;  // the least
  };
  for (const Case& test : {Case{KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR, 9, 8},
                           Case{KILN_SCALE_1X128, KILN_SCALE_M_MAJOR, 1000, 1040},
                           Case{KILN_SCALE_128X128, KILN_SCALE_ROW_MAJOR, 9, 8}}) {
    const QuantizerHandle quantizer = f.make(test.granularity, test.major);
    kiln_quantize_operands o = tight_operands();
    o.ld_scales = test.ld_scales;
    o.ld_scales_t = test.ld_scales_t;
    CHECK(kiln_quantize(quantizer.get(), &o, kStream) == KILN_OK);
    o.ld_scales_t = test.ld_scales_t - 1;
    CHECK(kiln_quantize(quantizer.get(), &o, kStream) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("ld_scales_t must be at least " + std::to_string(test.ld_scales_t)));
    o.ld_scales = test.ld_scales - 1;
    CHECK(kiln_quantize(quantizer.get(), &o, kStream) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("ld_scales must be at least " + std::to_string(test.ld_scales)));
  }
}

TEST_CASE("bad operands of a two-way cast are refused by name and nothing is launched",
          "[runtime]") {
  const Fixture f;
  const QuantizerHandle quantizer = f.make(KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR);
  struct Case {
    const char* words;
    std::function<void(kiln_quantize_operands&)> change;
  };
  const std::vector<Case> cases = {
      {"out_t must be a device pointer, got null", [](auto& o) { o.out_t = nullptr; }},
      {"out_t must be aligned to 16 bytes", [](auto& o) { o.out_t = at(0x40000008); }},
      {"ld_out_t must be at least 1008 (rows of out_t are filled up with zeros to a multiple of 16 "
       "elements, and rows is 1000), got 1000: pad the rows of out_t",
       [](auto& o) { o.ld_out_t = 1000; }},
      {"ld_out_t must be at least 1008", [](auto& o) { o.ld_out_t = -16; }},
      {"ld_out_t must be a multiple of 16 (rows of out_t begin at 16-byte boundaries), got 1016: "
       "pad the rows to 1024",
       [](auto& o) { o.ld_out_t = 1016; }},
      {"ld_out_t must be below", [](auto& o) { o.ld_out_t = std::int64_t{1} << 40; }},
      {"scales_t must be a device pointer, got null", [](auto& o) { o.scales_t = nullptr; }},
      {"scales_t must be aligned to 4 bytes", [](auto& o) { o.scales_t = at(0x50000002); }},
      {"ld_scales_t must be at least 8", [](auto& o) { o.ld_scales_t = 7; }},
      {"rows x cols must give at most 2^31-1 CTAs of 128 x 128",
       [](auto& o) {
         o.rows = o.ld_out_t = 2'000'000'000, o.cols = o.ld_in = o.ld_out = 1 << 24;
         o.ld_scales = 1 << 17, o.ld_scales_t = 15'625'000;
       }},
  };
  for (const Case& test : cases) {
    kiln_quantize_operands o = tight_operands();
    test.change(o);
    INFO(test.words);
    CHECK(kiln_quantize(quantizer.get(), &o, kStream) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
  }
  kiln_quantize_operands empty = KILN_QUANTIZE_OPERANDS_INIT;
  empty.cols = 1040;
  CHECK(kiln_quantize(quantizer.get(), &empty, kStream) == KILN_OK);
  CHECK(f.cuda.launches == 0);
}

TEST_CASE("a one-way cast refuses operands of the transposed result", "[runtime]") {
  const Fixture f;
  const QuantizerHandle quantizer = f.make(KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR, /*two_way=*/0);
  kiln_quantize_operands good = tight_operands();
  good.out_t = nullptr;
  good.ld_out_t = 0;
  good.scales_t = nullptr;
  good.ld_scales_t = 0;
  struct Case {
    const char* words;
    std::function<void(kiln_quantize_operands&)> change;
  };
  const std::vector<Case> cases = {
      {"out_t must be NULL without two_way, got 0x40000000: create the quantizer with two_way = 1",
       [](auto& o) { o.out_t = at(0x40000000); }},
      {"ld_out_t must be 0 without two_way, got 1008", [](auto& o) { o.ld_out_t = 1008; }},
      {"scales_t must be NULL without two_way, got 0x50000004",
       [](auto& o) { o.scales_t = at(0x50000004); }},
      {"ld_scales_t must be 0 without two_way, got -1", [](auto& o) { o.ld_scales_t = -1; }},
  };
  for (const Case& test : cases) {
    kiln_quantize_operands o = good;
    test.change(o);
    INFO(test.words);
    CHECK(kiln_quantize(quantizer.get(), &o, kStream) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
  }
  CHECK(f.cuda.launches == 0);
  CHECK(kiln_quantize(quantizer.get(), &good, kStream) == KILN_OK);
  CHECK(f.launched().out_t == nullptr);
}

TEST_CASE("a two-way quantizer of FP32, or of a two_way that is no flag, is refused", "[runtime]") {
  const Fixture f;
  kiln_quantize_problem asked = Fixture::problem(KILN_SCALE_1X128, KILN_SCALE_ROW_MAJOR);
  asked.in_type = KILN_TYPE_F32;
  kiln_quantizer* quantizer = nullptr;
  CHECK(kiln_quantizer_create(f.engine.get(), &asked, &quantizer) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(quantizer == nullptr);
  CHECK(error_mentions("two_way must be 0 unless in_type is bf16, got 1 with f32: convert"));
  asked.in_type = KILN_TYPE_BF16;
  asked.two_way = 2;
  CHECK(kiln_quantizer_create(f.engine.get(), &asked, &quantizer) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("two_way"));
}

}  // namespace kiln::test
