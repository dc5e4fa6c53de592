// A protection that this build leaves out; none in any build that is used. Internal.
//
// The tests are compiled once more against the sources without one protection, and have to fail:
// else they would prove nothing about it (tests/cache/mutants). KILN_TEST_UNSAFE names it; the
// CMake option of that name builds everything without it, for looking at it by hand.
#pragma once

namespace kiln::cache {

enum class Protection {
  none,
  no_checksum,           // entries are taken without comparing their checksum
  errors_throw,          // what cannot be stored is an error of the caller
  write_in_place,        // entries are written under their final names
  unlink_first,          // what is to be replaced is removed first
  no_recheck,            // a lock's new holder compiles without looking again
  reread_after_publish,  // what was published is read back and used
};

#ifndef KILN_TEST_UNSAFE
#define KILN_TEST_UNSAFE none
#endif
// Not inline: it may differ between the objects of one test program.
static constexpr Protection kLeftOut = Protection::KILN_TEST_UNSAFE;

}  // namespace kiln::cache
