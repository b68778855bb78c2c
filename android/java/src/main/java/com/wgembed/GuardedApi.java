package com.wgembed;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/** Marks a method that uses APIs newer than API 24 after a check of {@code SDK_INT}. The build checks all others. */
@Retention(RetentionPolicy.CLASS)
@Target(ElementType.METHOD)
@interface GuardedApi {}
