// Keys are complete and no wider, and one key is one cubin: with NVRTC where there is one.
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <thread>

#include "engine_support.h"
#include "runtime/tuned_table.h"
#include "tests/jit/nvrtc_paths.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace fs = std::filesystem;
namespace {

using kiln::test::by_scale;
using kiln::test::report_figures;
using kiln::test::with_commas;

// Every kernel of the built-in table of tuned tiles, each program once.
std::vector<jit::KernelSpec> shipped_kernels() {
  const auto table = runtime::TunedTable::load(runtime::builtin_tuned_text(), "built in");
  std::vector<jit::KernelSpec> specs;
  std::set<std::string> programs;
  const auto add = [&](const jit::Problem& problem, const jit::Tile& tile) {
    const jit::KernelSpec spec{jit::GemmSpec{problem, tile}, {}};
    const jit::Source source = jit::render(spec);
    if (programs.insert(source.entry + "\n" + source.text).second) specs.push_back(spec);
  };
  for (const runtime::TunedEntry& entry : table.file().entries) {
    for (const runtime::TunedInterval& interval : entry.intervals) {
      add(entry.problem, interval.tile);
      if (interval.runner_up) add(entry.problem, *interval.runner_up);
    }
  }
  return specs;
}

runtime::EngineOptions nvrtc_options(const std::string& nvrtc, const std::string& root = "") {
  runtime::EngineOptions options = engine_options(root);
  options.hooks.open_compiler = jit::open_nvrtc;
  options.nvrtc.explicit_path = nvrtc;
  return options;
}

std::string digest_of(const runtime::Cubin& cubin) {
  return to_hex(cubin.entry.key) + " " + to_hex(sha256(std::span(cubin.entry.cubin)));
}

// Runs the body in a child and returns what it printed, "" when it failed.
std::string answer_of_child(const TempDir& dir, const std::function<std::string()>& body) {
  static int number = 0;
  const std::string file = dir / ("answer" + std::to_string(number++));
  const int status = in_child([&] {
    write_text(file, body());
    return 0;
  });
  if (status != 0) return "";
  const std::vector<std::byte> bytes = read_bytes(file);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Ways in which one process can differ from another without its kernels differing. Each is set in
// a child; `place` is a directory of its own.
struct Surrounding {
  const char* name;
  void (*enter)(const std::string& place);
};

void enter_directory(const std::string& place) {
  if (::chdir(place.c_str()) != 0) throw std::runtime_error("chdir");
}

// Files of every name that a template includes or might include; whoever reads one cannot compile.
void poison(const std::string& place) {
  for (const jit::TemplateFile& file : jit::template_files()) {
    fs::create_directories(fs::path(place + "/" + std::string(file.name)).parent_path());
    write_text(place + "/" + std::string(file.name), "#error read from the working directory\n");
  }
  for (const char* name : {"stdint.h", "cstdint", "cuda_fp8.h", "cuda_bf16.h", "cuda_runtime.h"}) {
    write_text(place + "/" + name, "#error read from the working directory\n");
  }
  enter_directory(place);
  for (const char* variable : {"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "INCLUDE"}) {
    ::setenv(variable, place.c_str(), 1);
  }
}

constexpr Surrounding kSurroundings[] = {
    {"none", [](const std::string&) {}},
    {"working directory", enter_directory},
    {"home", [](const std::string& place) { ::setenv("HOME", place.c_str(), 1); }},
    {"no environment", [](const std::string&) { ::clearenv(); }},
    {"temporary directory", [](const std::string& place) { ::setenv("TMPDIR", place.c_str(), 1); }},
    {"locale",
     [](const std::string&) {
       ::setenv("LC_ALL", "tr_TR.UTF-8", 1);
       std::setlocale(LC_ALL, "");
     }},
    {"compiler variables",
     [](const std::string&) {
       ::setenv("NVCC_PREPEND_FLAGS", "-O0", 1);
       ::setenv("NVCC_APPEND_FLAGS", "-G", 1);
       ::setenv("CUDA_CACHE_DISABLE", "1", 1);
     }},
    {"poisoned headers", poison},
};

}  // namespace

TEST_CASE("any byte of any template changes the digest that is part of every key",
          "[contract][C7]") {
  std::vector<jit::TemplateFile> files(jit::template_files().begin(), jit::template_files().end());
  const std::string before = runtime::templates_digest(files);
  CHECK(before == runtime::templates_digest());
  std::set<std::string> digests = {before};
  std::size_t changes = 0;
  const auto expect_another = [&] {
    digests.insert(runtime::templates_digest(files));
    REQUIRE(digests.size() == ++changes + 1);
  };
  const std::size_t step = by_scale(53, 1);
  for (jit::TemplateFile& file : files) {
    std::string text(file.text);
    const std::string_view original = file.text;
    file.text = text;
    for (std::size_t at = changes % step; at < text.size(); at += step) {
      text[at] = static_cast<char>(text[at] ^ 1);
      expect_another();
      text[at] = static_cast<char>(text[at] ^ 1);
    }
    file.text = original;
    const std::string_view name = file.name;
    const std::string other = std::string(name) + "x";
    file.name = other;
    expect_another();
    file.name = name;
  }
  files.pop_back();
  expect_another();
  report_figures(with_commas(changes) + " changes of " + with_commas(files.size() + 1) +
                 " templates, each another key");
}

TEST_CASE("the key's text names everything that goes into a compile", "[contract][C7]") {
  TempDir dir;
  runtime::Engine engine(engine_options(dir / "cache"));
  const jit::KernelSpec spec = kernel_number(3);
  const jit::Source source = jit::render(spec);
  const Entry entry = engine.cubin_for(spec).entry;
  CHECK(sha256(entry.key_text) == entry.key);
  const auto names = [&](const std::string& text) {
    return entry.key_text.find(text) != std::string::npos;
  };
  CHECK(names(runtime::templates_digest()));
  CHECK(names(to_hex(sha256(source.text))));
  CHECK(names(source.entry));
  CHECK(names(jit::name(source.arch)));
  CHECK(names("fake 1.2 build=abc [--one] [--two=2]"));
  for (const auto& [name, value] : source.constants) CHECK(names(name));
}

TEST_CASE("templates include nothing but templates", "[contract][C7]") {
  std::set<std::string> names;
  for (const jit::TemplateFile& file : jit::template_files()) names.emplace(file.name);
  const std::regex include(R"re(^[ \t]*#[ \t]*include[ \t]*(.*)$)re", std::regex::multiline);
  int includes = 0;
  const auto check = [&](const std::string& text) {
    for (std::sregex_iterator it(text.begin(), text.end(), include), end; it != end; ++it) {
      const std::string what = (*it)[1];
      CAPTURE(what);
      REQUIRE(what.size() > 2);
      const bool of_host_branch = what == "<cstdint>" && (*it).prefix().str().ends_with("#else\n");
      CHECK((of_host_branch || names.count(what.substr(1, what.find_last_of("\">") - 1)) == 1));
      ++includes;
    }
  };
  for (const jit::TemplateFile& file : jit::template_files()) check(std::string(file.text));
  for (const jit::KernelSpec& spec : shipped_kernels()) check(jit::render(spec).text);
  CHECK(includes > 20);
}

TEST_CASE("two kernels have one key exactly when they are one program", "[contract][C7]") {
  runtime::Engine engine(engine_options(""));
  std::map<std::string, std::string> program_of;
  std::map<std::string, std::string> key_of;
  std::vector<jit::KernelSpec> specs = shipped_kernels();
  for (int i = 0; i < by_scale(500, 20'000); ++i) specs.push_back(kernel_number(i));
  for (const jit::KernelSpec& spec : specs) {
    const jit::Source source = jit::render(spec);
    const std::string program = source.entry + "\n" + source.text;
    const std::string key = engine.key_for(spec);
    REQUIRE(key.size() == 64);
    REQUIRE(program_of.emplace(key, program).first->second == program);
    REQUIRE(key_of.emplace(program, key).first->second == key);
  }
  CHECK(program_of.size() > 500);
  report_figures(with_commas(program_of.size()) + " programs, as many keys");
}

TEST_CASE("key and cubin depend on nothing around the process", "[contract][C7][C8]") {
  const std::vector<std::string> nvrtcs = kiln::test::nvrtc_paths();
  if (nvrtcs.empty()) KILN_SKIP("no NVRTC on this machine");
  TempDir dir;
  const jit::KernelSpec spec = shipped_kernels().front();
  std::set<std::string> answers;
  int processes = 0;
  for (const Surrounding& surrounding : kSurroundings) {
    // NVRTC has nothing for a sanitizer to see: one compile shows that it runs beside one.
    if (kiln::test::kIsSanitized && processes == 1) break;
    const std::string place = dir / ("place" + std::to_string(processes++));
    REQUIRE(::mkdir(place.c_str(), 0700) == 0);
    const std::string answer = answer_of_child(dir, [&] {
      surrounding.enter(place);
      runtime::Engine engine(nvrtc_options(nvrtcs.back()));
      runtime::Cubin cubin;
      std::thread([&] { cubin = engine.cubin_for(spec); }).join();
      return digest_of(cubin);
    });
    CAPTURE(surrounding.name);
    CHECK(answer.size() == 2 * 64 + 1);
    answers.insert(answer);
  }
  REQUIRE(answers.size() == 1);
  report_figures(std::to_string(processes) +
                 " surroundings (directory, home, environment, locale, poisoned headers): 1 key, "
                 "1 cubin");
}

TEST_CASE("every process compiles the same bytes for the same key", "[contract][C8]") {
  const std::vector<std::string> nvrtcs = kiln::test::nvrtc_paths();
  if (nvrtcs.empty()) KILN_SKIP("no NVRTC on this machine");
  const int processes = by_scale(2, 100);
  std::vector<jit::KernelSpec> specs = shipped_kernels();
  if (!kiln::test::is_full_scale()) specs.resize(2);
  const int copies = by_scale(2, 3);  // of each kernel, by different processes
  TempDir dir;
  const auto share_of = [&](int process) {  // kernel i goes to the processes i, i + 1, i + 2
    std::string lines;
    runtime::Engine engine(nvrtc_options(nvrtcs.back()));
    for (int i = 0; i < static_cast<int>(specs.size()); ++i) {
      const int distance = (process - i % processes + processes) % processes;
      if (distance < copies) lines += digest_of(engine.cubin_for(specs[i])) + "\n";
    }
    return lines;
  };
  std::vector<pid_t> running;
  for (int process = 0; process < processes; ++process) {
    running.push_back(start_child([&, process] {
      write_text(dir / std::to_string(process), share_of(process));
      return 0;
    }));
    if (running.size() < 2) continue;
    for (const pid_t child : running) REQUIRE(wait_for(child) == 0);
    running.clear();
  }
  std::map<std::string, std::string> cubin_of;
  int compiles = 0;
  for (int process = 0; process < processes; ++process) {
    std::ifstream in(dir / std::to_string(process));
    for (std::string key, cubin; in >> key >> cubin; ++compiles) {
      REQUIRE(cubin_of.emplace(key, cubin).first->second == cubin);
    }
  }
  CHECK(cubin_of.size() == specs.size());
  CHECK(compiles == static_cast<int>(specs.size()) * copies);
  report_figures(std::to_string(processes) + " processes, " + with_commas(cubin_of.size()) +
                 " keys compiled " + std::to_string(copies) + " times each: 1 cubin per key");
}

}  // namespace kiln::cache::test
