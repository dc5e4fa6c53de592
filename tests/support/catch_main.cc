// The main of every test program: Catch2's runner plus the exit codes that ctest needs.
//
//   0 all cases that ran passed   1 a case failed   4 every case was skipped
//   5 no case matched the names given   255 the arguments are wrong
//
// Catch2 2.13 exits with the number of failed checks, and four of them would look like a skip; and
// with 0 when a name matches nothing, so that a misspelt one would look like a pass.
#define CATCH_CONFIG_RUNNER
#include <cstdio>
#include <string>

#include "tests/support/catch.h"

namespace {

constexpr int kFailed = 1;
constexpr int kAllSkipped = 4;
constexpr int kNothingRan = 5;

int cases_run = 0;
int cases_skipped = 0;

#if CATCH_VERSION_MAJOR >= 3
using ListenerBase = Catch::EventListenerBase;
#else
using ListenerBase = Catch::TestEventListenerBase;
#endif

class CaseCounter : public ListenerBase {
 public:
  using ListenerBase::ListenerBase;
  void testCaseEnded(const Catch::TestCaseStats&) override { ++cases_run; }
};
CATCH_REGISTER_LISTENER(CaseCounter)

}  // namespace

void kiln::test::note_skip(const std::string& reason) {
  ++cases_skipped;
  std::printf("SKIPPED: %s\n", reason.c_str());
  std::fflush(stdout);
}

int main(int argc, char** argv) {
  Catch::Session session;
  if (const int usage_error = session.applyCommandLine(argc, argv); usage_error != 0) {
    return usage_error;
  }
  bool only_asks = session.configData().showHelp;
  for (int i = 1; i < argc; ++i) only_asks |= std::string(argv[i]).rfind("--list", 0) == 0;
  const int result = session.run();
  if (only_asks) return result;
  if (result != 0) return kFailed;
  if (cases_run == 0) return kNothingRan;
  return cases_run > 0 && cases_skipped >= cases_run ? kAllSkipped : 0;
}
