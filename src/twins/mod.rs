//! The keeper: folds readings into shadows and the log, desired into commands, answers the shadow topics.
