// Whether other processes have the cores that a team would use. The members of a team wait for each other, so that one
// of them that shares its core with another process holds up all; then fewer are faster, until the crowd has gone. A
// team is kept as long as it has gained more than it lost: a core is taken away for a moment on any machine.
#pragma once
#include <cstdint>

namespace rnnfast {

// Members that a call may have at present, at most `n`, where the number is ours to choose. It changes no bit.
int members_in_crowd(int n);

// After a call of n members that took so long, and in which they waited so long for each other, all together.
void note_call(int n, int64_t nanoseconds, int64_t waited);

}  // namespace rnnfast
