// The parts of the `kiln` command in process: what would take too many processes to try.
#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"
#include "tools/args.h"
#include "tools/kernel_list.h"
#include "tools/shapes.h"
#include "tools/strict_json.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/worker_pool.h"
#include "tools/worker_protocol.h"

using namespace kiln;
using namespace kiln::tools;

namespace {

const std::string kValid = R"({
  "$schema": "x", "format": 1, "model": "\u00e9", "source": "y",
  "defaults": {"layout": "dense", "scaling": "1d2d", "a": "e4m3", "b": "e5m2", "out": "f32",
               "sfa": "m", "accumulate": true, "m": [1, 128]},
  "problems": [{"name": "a", "n": 512, "k": 1024, "comment": "c"},
               {"name": "b", "n": 8, "k": 16, "out": "bf16", "accumulate": false,
                "m": [0, 2147483136]}]
})";

// "" when the text is accepted, else the message; any other exception fails the test.
std::string refusal(const std::string& text) {
  try {
    parse_shapes(text, "f.json");
    return "";
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string json_refusal(const std::string& text) {
  try {
    parse_json(text, "f");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("a shapes file gives every problem its fields and the defaults of the others", "[cli]") {
  const ShapesFile shapes = parse_shapes(kValid, "f.json");
  REQUIRE(shapes.problems.size() == 2);
  jit::Problem first;
  first.n = 512;
  first.k = 1024;
  first.b = jit::Fp8Type::kE5m2;
  first.out = jit::OutputType::kF32;
  first.sfa_major = jit::ScaleMajor::kM;
  first.accumulate = true;
  CHECK(shapes.problems[0].problem == first);
  CHECK(shapes.problems[0].m == std::vector<std::int64_t>{1, 128});
  CHECK(shapes.problems[1].m == std::vector<std::int64_t>{0, 2147483136});
  CHECK(shapes.problems[1].problem.out == jit::OutputType::kBf16);
  CHECK_FALSE(shapes.problems[1].problem.accumulate);
  CHECK(problem_from_json(to_json(first)) == first);
}

TEST_CASE("a default that a problem's layout or scaling does not take is not used for it",
          "[cli]") {
  const ShapesFile shapes = parse_shapes(R"({"format": 1,
    "defaults": {"scaling": "1d2d", "sfa": "row", "groups": 8, "group_form": "labels",
                 "alignment": 64},
    "problems": [{"name": "dense", "n": 8, "k": 16},
                 {"name": "dense_1d1d", "n": 8, "k": 16, "scaling": "1d1d"},
                 {"name": "contiguous", "n": 8, "k": 16, "layout": "grouped_contiguous"},
                 {"name": "ends", "n": 8, "k": 16, "layout": "grouped_contiguous",
                  "group_form": "ends", "alignment": 1, "groups": 3},
                 {"name": "masked", "n": 8, "k": 16, "layout": "grouped_masked"},
                 {"name": "grouped_k", "n": 8, "k": 16, "layout": "grouped_k"}]})",
                                         "f.json");
  std::string seen;
  for (const NamedProblem& p : shapes.problems) {
    jit::validate(p.problem);
    CHECK(problem_from_json(to_json(p.problem)) == p.problem);
    seen += jit::describe(p.problem) + "\n";
  }
  CHECK(
      seen ==
      "dense 1d2d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=row\n"
      "dense 1d1d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=m\n"
      "grouped_contiguous 1d2d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=row labels groups=8 alignment=64\n"
      "grouped_contiguous 1d2d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=row ends groups=3 alignment=1\n"
      "grouped_masked 1d2d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=row rows groups=8\n"
      "grouped_k 1d1d n=8 k=16 e4m3 x e4m3 -> bf16 sfa=m ends groups=8\n");
}

TEST_CASE("a problem's own words are kept, so that what does not fit is refused by name", "[cli]") {
  for (const std::string field :
       {R"("groups": 4)", R"("group_form": "ends")", R"("alignment": 64)"}) {
    const ShapesFile shapes = parse_shapes(
        R"({"format": 1, "problems": [{"name": "a", "n": 8, "k": 16, )" + field + "}]}", "f.json");
    INFO(field);
    CHECK_THROWS_AS(jit::validate(shapes.problems[0].problem), Error);
  }
}

TEST_CASE("every truncation of a shapes file is refused", "[cli]") {
  const std::size_t end = kValid.find_last_of('}');
  for (std::size_t length = 0; length <= end; ++length) {
    INFO(length);
    CHECK_FALSE(refusal(kValid.substr(0, length)).empty());
  }
}

TEST_CASE(
    "random damage to a shapes file is accepted or refused, and a refusal is one short printable "
    "line",
    "[cli]") {
  const std::vector<std::string> pieces = {"{",         "}",
                                           "[",         "]",
                                           ",",         ":",
                                           "\"",        "\\",
                                           "\\u0000",   "\\ud800",
                                           "null",      "-",
                                           "1e309",     "18446744073709551616",
                                           "true",      "\xff",
                                           "\xc3",      std::string(1, '\0'),
                                           "\n",        "[[[[[[[[[[[[[[[[[[[[",
                                           "\"n\": 8,", "\x1b[2J",
                                           "e4m3",      "problems",
                                           "0.5"};
  std::mt19937_64 random(20260101);
  int refused = 0;
  constexpr int kRounds = kiln::test::by_build(30'000, 4000);
  for (int round = 0; round < kRounds; ++round) {
    std::string text = kValid;
    for (std::uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 20);
          break;
        case 2:
          text.insert(at, pieces[random() % pieces.size()]);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 60));
          break;
      }
      if (text.empty()) text.push_back(' ');
    }
    const std::string message = refusal(text);
    if (message.empty()) continue;
    ++refused;
    const bool printable =
        std::all_of(message.begin(), message.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    if (printable && message.size() < 1000 && message.rfind("f.json: ", 0) == 0) continue;
    FAIL_CHECK("round " << round << ": " << message);
  }
  CHECK(refused > kRounds / 2);
  CHECK(refused < kRounds);
}

TEST_CASE("nesting is counted over arrays and objects together and costs no stack", "[cli]") {
  const auto nested = [](int depth) {
    std::string open, close;
    for (int i = 0; i < depth; ++i) {
      open += i % 2 == 0 ? "[" : "{\"x\":";
      close += i % 2 == 0 ? "]" : "}";
    }
    return open + "1" + std::string(close.rbegin(), close.rend());
  };
  CHECK(json_refusal(nested(16)).empty());
  CHECK(contains(json_refusal(nested(17)), "nested deeper than 16 levels"));
  CHECK(contains(json_refusal(nested(1'000'000)), "nested deeper than 16 levels"));
}

TEST_CASE("whole numbers are read whole or not at all", "[cli]") {
  CHECK(parse_integer("0")->value == 0);
  CHECK(parse_integer("+7")->value == 7);
  CHECK(parse_integer("-9223372036854775808")->value == INT64_MIN);
  CHECK_FALSE(parse_integer("9223372036854775807")->overflow);
  CHECK(parse_integer("9223372036854775808")->overflow);
  for (const char* text :
       {"", "-", "+", "+-1", "--1", " 1", "1 ", "1.0", "1e3", "0x1", "1_000", "one"}) {
    INFO(text);
    CHECK_FALSE(parse_integer(text).has_value());
  }
}

TEST_CASE("the nearest word is one that a typo could have meant", "[cli]") {
  const std::string_view words[] = {"--shapes", "--sms", "--shard", "--cache", "--m", "--n"};
  CHECK(nearest("--shape", words) == "--shapes");
  CHECK(nearest("--sahpes", words) == "--shapes");
  CHECK(nearest("--cahce", words) == "--cache");
  CHECK(nearest("--sm", words) == "--sms");
  CHECK(nearest("--frobnicate", words).empty());
  CHECK(nearest(std::string(100'000, 'x'), words).empty());
  CHECK(nearest("", words).empty());
}

TEST_CASE("text from outside is printable before it is printed", "[cli]") {
  CHECK(quote("plain") == "\"plain\"");
  CHECK(quote("a\n\x1b\xc3\xa9") == "\"a\\x0a\\x1b\\xc3\\xa9\"");
  CHECK(quote(std::string(1000, 'x')).size() < 100);
}

TEST_CASE("text is wrapped between words, and paragraphs stay apart", "[cli]") {
  CHECK(wrap("\none two\nthree  four\n\nfive", 9) == "one two\nthree\nfour\n\nfive");
  CHECK(wrap("one-very-long-word and more", 5) == "one-very-long-word\nand\nmore");
  CHECK(wrap("one two", 7) == "one two");
  CHECK(wrap(" \n \n ", 7).empty());
}

TEST_CASE("sizes and intervals are short", "[cli]") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(1024) == "1.0 KiB");
  CHECK(human_bytes(std::uint64_t{3} << 40) == "3.0 TiB");
  CHECK(human_bytes(UINT64_MAX) == "16.0 EiB");
  CHECK(human_interval(0, 64) == "0..64");
  CHECK(human_interval(4097, jit::kMaxM) == "4097..");
}

TEST_CASE("a table aligns its columns and leaves no blanks at line ends", "[cli]") {
  Table table({{"name"}, {"us", Align::kRight}, {"note"}});
  table.add({"a", "1.5", ""});
  table.add({"longer", "100.25", "x"});
  CHECK(table.text() == "name        us  note\na          1.5\nlonger  100.25  x\n");
}

TEST_CASE("a kernel that several problems need is listed once with all its users", "[cli]") {
  NamedProblem problem;
  problem.name = "a";
  problem.problem.n = problem.problem.k = 512;
  NamedProblem twin = problem;
  twin.name = "b";
  const KernelList one = list_kernels({problem}, {132});
  const KernelList two = list_kernels({problem, twin}, {132});
  REQUIRE(one.kernels.size() == two.kernels.size());
  for (std::size_t i = 0; i < one.kernels.size(); ++i) {
    CHECK(one.kernels[i].spec == two.kernels[i].spec);
    CHECK(one.kernels[i].uses.size() * 2 == two.kernels[i].uses.size());
  }
}

TEST_CASE("problems that differ in what kernels take at run time share their kernels", "[cli]") {
  NamedProblem first;
  first.name = "a";
  first.problem.layout = jit::Layout::kGroupedContiguous;
  first.problem.n = first.problem.k = 512;
  first.problem.groups = 32;
  set_layout_fields({}, first.problem);
  NamedProblem second = first;
  second.name = "b";
  second.problem.alignment = 1;
  NamedProblem other = first;
  other.name = "c";
  other.problem.group_form = jit::GroupForm::kLabels;
  const KernelList one = list_kernels({first}, {132});
  REQUIRE_FALSE(one.kernels.empty());
  CHECK(list_kernels({first, second}, {132}).kernels.size() == one.kernels.size());
  CHECK(list_kernels({first, second, other}, {132}).kernels.size() == 2 * one.kernels.size());
  for (const NeededKernel& kernel : one.kernels)
    CHECK(std::get<jit::GemmSpec>(kernel.spec).problem == jit::canonical(first.problem));
  // A worker is asked for just that kernel.
  const jit::AnyKernel& spec = one.kernels.front().spec;
  CHECK(decode_request(encode_request(spec)) == spec);
}

TEST_CASE("with casts a list has every legal cast, the fill, and a reference per kind of problem",
          "[cli]") {
  NamedProblem rows;
  rows.name = "rows";
  rows.problem.n = rows.problem.k = 512;
  NamedProblem larger = rows;
  larger.name = "larger";
  larger.problem.n = 1024;
  NamedProblem columns = rows;
  columns.name = "columns";
  columns.problem.sfa_major = jit::ScaleMajor::kM;
  NamedProblem bad = rows;  // it alone would need this reference
  bad.name = "bad";
  bad.problem.n = 1001;
  bad.problem.a = jit::Fp8Type::kE5m2;
  const std::vector<NamedProblem> problems = {rows, bad, larger, columns};
  const KernelList gemms = list_kernels(problems, {132});
  const KernelList all = list_kernels(problems, {132}, {}, KernelKinds::kGemmsAndCasts);
  REQUIRE(gemms.bad.size() == 1);
  REQUIRE(all.bad.size() == 1);

  std::set<jit::AnyKernel> seen;
  std::size_t casts = 0, fills = 0;
  std::vector<std::vector<std::string>> users;  // of each reference
  for (std::size_t i = 0; i < all.kernels.size(); ++i) {
    const NeededKernel& kernel = all.kernels[i];
    CHECK(seen.insert(kernel.spec).second);
    CHECK(std::holds_alternative<jit::GemmSpec>(kernel.spec) == (i < gemms.kernels.size()));
    if (i < gemms.kernels.size()) CHECK(kernel.spec == gemms.kernels[i].spec);
    casts += std::holds_alternative<jit::QuantizeSpec>(kernel.spec);
    fills += std::holds_alternative<jit::FillSpec>(kernel.spec);
    if (!std::holds_alternative<jit::ReferenceSpec>(kernel.spec)) continue;
    users.emplace_back();
    for (const KernelUse& use : kernel.uses) users.back().push_back(use.problem);
  }
  CHECK(casts == jit::all_casts().size());
  CHECK(fills == 1);
  CHECK(users == std::vector<std::vector<std::string>>{{"rows", "larger"}, {"columns"}});
}

TEST_CASE("the parts of a sharded list hold each kernel once and differ by at most one in size",
          "[cli]") {
  std::vector<NeededKernel> kernels(23);
  for (std::size_t i = 0; i < kernels.size(); ++i)
    std::get<jit::GemmSpec>(kernels[i].spec).problem.n = static_cast<std::int64_t>(i);
  for (std::int64_t count = 1; count <= 30; ++count) {
    std::vector<int> seen(kernels.size());
    for (std::int64_t index = 0; index < count; ++index) {
      const std::vector<NeededKernel> part = shard(kernels, index, count);
      CHECK(part.size() <= kernels.size() / static_cast<std::size_t>(count) + 1);
      CHECK(part.size() >= kernels.size() / static_cast<std::size_t>(count));
      for (const NeededKernel& kernel : part)
        ++seen[static_cast<std::size_t>(std::get<jit::GemmSpec>(kernel.spec).problem.n)];
    }
    CHECK(seen == std::vector<int>(kernels.size(), 1));
  }
}

TEST_CASE("requests and replies survive the way to a worker and back", "[cli]") {
  jit::GemmSpec spec;
  spec.problem.n = 576;
  spec.problem.k = 7168;
  spec.problem.sfa_major = jit::ScaleMajor::kM;
  spec.tile = {192, 96, 3, 1, 5, 2, 1, 4};
  std::vector<jit::AnyKernel> kernels = {spec, jit::FillSpec{}, jit::reference_of(spec.problem)};
  for (const jit::QuantizeSpec& cast : jit::all_casts()) kernels.emplace_back(cast);
  std::set<std::string> lines;
  for (const jit::AnyKernel& kernel : kernels) {
    const std::string line = encode_request(kernel);
    CHECK(line.find('\n') == std::string::npos);
    CHECK(lines.insert(line).second);
    CHECK(decode_request(line) == kernel);
  }

  const WorkerReply failure = WorkerFailure{Status::kCompileFailed, "line 1\nline 2 \xff"};
  CHECK(encode_reply(failure).find('\n') == std::string::npos);
  const WorkerReply failure_back = decode_reply(encode_reply(failure));
  CHECK(std::get<WorkerFailure>(failure_back).status == Status::kCompileFailed);
  CHECK(std::get<WorkerFailure>(failure_back).message.rfind("line 1\nline 2 ", 0) == 0);

  runtime::KernelInfo info;
  info.key = "ab";
  info.registers = 168;
  info.compile_ms = 250.5;
  info.launch.dynamic_smem_bytes = 230'000;
  const WorkerReply info_back = decode_reply(encode_reply(info));
  CHECK(std::get<runtime::KernelInfo>(info_back).key == "ab");
  CHECK(std::get<runtime::KernelInfo>(info_back).registers == 168);
  CHECK(std::get<runtime::KernelInfo>(info_back).launch.dynamic_smem_bytes == 230'000);
  for (const char* line : {"", "x", "{}", "[]", R"({"status": "0"})", R"({"status": 0})"}) {
    INFO(line);
    const WorkerReply reply = decode_reply(line);
    CHECK(std::get<WorkerFailure>(reply).status == Status::kInternal);
  }
}

namespace {

// Runs the pool over shell scripts that read requests from the socket and answer with `cat`-like
// code.
std::vector<WorkerOutcome> run_pool(const std::string& script, int workers,
                                    const std::vector<std::string>& requests) {
  WorkerPool pool("/bin/sh", {"sh", "-c", script}, workers, std::chrono::milliseconds(1500));
  std::vector<WorkerOutcome> outcomes(requests.size());
  std::vector<int> calls(requests.size());
  pool.run(
      requests,
      [&](std::size_t index, const WorkerOutcome& outcome) {
        outcomes[index] = outcome;
        ++calls[index];
        return true;
      },
      [] {});
  CHECK(calls == std::vector<int>(requests.size(), 1));
  return outcomes;
}

}  // namespace

TEST_CASE("a line that asks for no kernel is refused", "[cli]") {
  const std::string good = encode_request(jit::FillSpec{});
  REQUIRE_NOTHROW(decode_request(good));
  const std::string cast = encode_request(jit::QuantizeSpec{});
  for (const std::string& line :
       {std::string(), std::string("{}"), std::string("[]"), std::string("7"), good + good,
        good.substr(0, good.size() - 1), std::string(R"({"fill": false})"),
        std::string(R"({"fil": true})"), std::string(R"({"fill": true, "cast": "x"})"),
        std::string(R"({"cast": "quantize"})"), std::string(R"({"cast": true})"),
        std::string(R"({"cast": "check: fill"})"), cast.substr(0, cast.size() - 2) + " \"}",
        std::string(R"({"reference": "x"})"), std::string(R"({"reference": {}})"),
        std::string(R"({"gemm": {"problem": {}}})"), std::string(R"({"gemm": "x"})")}) {
    INFO(line);
    CHECK_THROWS(decode_request(line));
  }
}

TEST_CASE("a pool answers every request once, with replies longer than a packet", "[cli]") {
  const std::string script = R"(while read -r x; do printf '%s%070000d\n' "$x" 7 >&0; done)";
  std::vector<std::string> requests;
  for (int i = 0; i < 40; ++i) requests.push_back(std::to_string(i) + "r");
  const std::vector<WorkerOutcome> outcomes = run_pool(script, 3, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    REQUIRE(outcomes[i].answered);
    CHECK(outcomes[i].reply.size() == requests[i].size() + 70'000);
    CHECK(outcomes[i].reply.rfind(requests[i], 0) == 0);
  }
}

TEST_CASE("a pool blames a worker's end on the request that met it, and on no other", "[cli]") {
  const std::string script =
      R"(
    while read -r x; do
      case $x in
        die) kill -9 $$ ;;
        leave) exit 5 ;;
        hang) exec sleep 100 ;;
        *) echo "$x" >&0 ;;
      esac
    done)";
  const std::vector<WorkerOutcome> outcomes =
      run_pool(script, 2, {"a", "die", "b", "leave", "c", "hang", "d", "die", "e"});
  for (const std::size_t good : {0u, 2u, 4u, 6u, 8u}) CHECK(outcomes[good].answered);
  CHECK(contains(outcomes[1].failure, "ended by signal 9"));
  CHECK(contains(outcomes[3].failure, "exit code 5"));
  CHECK(contains(outcomes[5].failure, "did not finish within 1.5 s"));
  CHECK(contains(outcomes[7].failure, "ended by signal 9"));
}

TEST_CASE("a pool survives workers that end between requests, cannot start, or flood", "[cli]") {
  // Each worker answers once and leaves: the next request must find that out and start another.
  for (const WorkerOutcome& outcome : run_pool(R"(read -r x; echo "$x" >&0)", 1, {"a", "b", "c"})) {
    CHECK((outcome.answered || contains(outcome.failure, "exit code 0")));
  }
  CHECK(contains(run_pool("exec 3<&0; tr '\\0' x </dev/zero >&3", 1, {"a"})[0].failure,
                 "answered with more than"));
  WorkerPool pool("/nonexistent/kiln", {"kiln"}, 2, std::chrono::milliseconds(1000));
  int failures = 0;
  pool.run(
      {"a", "b", "c"},
      [&](std::size_t, const WorkerOutcome& outcome) {
        failures += !outcome.answered && contains(outcome.failure, "No such file");
        return true;
      },
      [] {});
  CHECK(failures == 3);
}
