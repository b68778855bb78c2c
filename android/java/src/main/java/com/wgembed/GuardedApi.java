package com.wgembed;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/** Marks a method that calls what API 24 lacks, and looks at {@code SDK_INT} first. The build checks all others. */
@Retention(RetentionPolicy.CLASS)
@Target(ElementType.METHOD)
@interface GuardedApi {}
