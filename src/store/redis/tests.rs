//! The scripts in virtual time: on a real server they answer as the model of the fleet's rules does.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
