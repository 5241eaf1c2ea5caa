/* The translation unit of the extension; see native.h. */

#include "native.h"

#include "siginfo.c"
#include "threads.c"
#include "actions.c"
#include "deferred.c"
#include "handler.c"
#include "window.c"
#include "pipe.c"
#include "children.c"
#include "exit.c"
