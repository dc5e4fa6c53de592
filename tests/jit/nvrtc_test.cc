// Finding and identifying NVRTC, and what its failures say.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "jit/compiler.h"
#include "jit/error.h"
#include "tests/jit/nvrtc_paths.h"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;
namespace fs = std::filesystem;

namespace {

// Fails with the message of the call, which must throw Error{status}.
template <typename F>
std::string message_of(Status status, F call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.status() == status);
    return error.what();
  }
  FAIL("nothing was thrown");
  return {};
}

struct ScratchDirectory {
  fs::path path = fs::temp_directory_path() / ("kiln-nvrtc-test-" + std::to_string(std::rand()));
  ScratchDirectory() { fs::create_directories(path); }
  ~ScratchDirectory() { fs::remove_all(path); }
};

}  // namespace

TEST_CASE("an explicit path that does not exist is the only place tried", "[nvrtc]") {
  const NvrtcLocation location = locate_nvrtc({"/nonexistent/libnvrtc.so", {}});
  CHECK(location.path.empty());
  REQUIRE(location.tried.size() == 1);
  CHECK(location.tried[0] == "/nonexistent/libnvrtc.so: does not exist");
  const std::string text = message_of(Status::kNoCompiler, [] {
    open_nvrtc({"/nonexistent/libnvrtc.so", {}});
  });
  CHECK(text.find("/nonexistent/libnvrtc.so") != std::string::npos);
  CHECK(text.find("KILN_NVRTC") != std::string::npos);
}

TEST_CASE("a file that is no library, or the wrong one, is named with the reason", "[nvrtc]") {
  const ScratchDirectory scratch;
  const std::string text_file = scratch.path / "libnvrtc.so";
  std::ofstream(text_file) << "not a library";
  const NvrtcLocation location = locate_nvrtc({text_file, {}});
  CHECK(location.path.empty());
  REQUIRE(location.tried.size() == 1);
  CHECK(location.tried[0].find("libnvrtc.so: ") != std::string::npos);
  const NvrtcLocation other = locate_nvrtc({"libm.so.6", {}});
  CHECK(other.path.empty());
  REQUIRE(other.tried.size() == 1);
  CHECK(other.tried[0].find("has no nvrtcVersion") != std::string::npos);
}

TEST_CASE("a directory, its library file and a virtual environment find the same NVRTC",
          "[nvrtc]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const NvrtcLocation by_file = locate_nvrtc({paths[0], {}});
  REQUIRE_FALSE(by_file.path.empty());
  CHECK(by_file.major >= 12);
  CHECK(locate_nvrtc({fs::path(by_file.path).parent_path(), {}}).path == by_file.path);
}

TEST_CASE("the fingerprint names version and builds but no path", "[nvrtc]") {
  for (const std::string& path : test::nvrtc_paths()) {
    const auto compiler = open_nvrtc({path, {}});
    const std::string fingerprint = compiler->fingerprint();
    INFO(path << ": " << fingerprint);
    CHECK(fingerprint.find("nvrtc 1") == 0);
    CHECK(fingerprint.find('/') == std::string::npos);
    CHECK(fingerprint.find("unreadable") == std::string::npos);
    CHECK(fingerprint.find("builtins=none") == std::string::npos);
    CHECK(fingerprint == open_nvrtc({path, {}})->fingerprint());
  }
}

TEST_CASE("a program that does not compile fails with its name, the options and the log",
          "[nvrtc]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  for (const std::string& path : paths) {
    const auto compiler = open_nvrtc({path, {}});
    Source source = render({QuantizeSpec{}, {}});
    source.text += "\nthis is not C++;\n";
    const std::string text = message_of(Status::kCompileFailed, [&] { compiler->compile(source); });
    CHECK(text.find(source.program_name) != std::string::npos);
    CHECK(text.find("--gpu-architecture=sm_90a") != std::string::npos);
    CHECK(text.find("error:") != std::string::npos);
    CHECK_FALSE(compiler->compile(render({QuantizeSpec{}, {}})).cubin.empty());
  }
}

TEST_CASE("a success without the entry's code is refused", "[nvrtc]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const auto compiler = open_nvrtc({paths[0], {}});
  Source source = render({QuantizeSpec{}, {}});
  source.text = "extern \"C\" __global__ void another_name() {}\n";
  CHECK(message_of(Status::kCompileFailed, [&] { compiler->compile(source); }).find(source.entry) !=
        std::string::npos);
}
