// A libFuzzer target; KILN_FUZZED_PARSER names the parser. Findings of all kinds end the process.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/parsers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const kiln::test::FuzzedParser& parser =
      *kiln::test::find_fuzzed_parser(KILN_FUZZED_PARSER);
  kiln::test::run_fuzzed(parser, {reinterpret_cast<const char*>(data), size});
  return 0;
}
