// Just in time, since nothing was compiled before; `ngc` checks in `npm test` that it can be.
import '@angular/compiler';
import 'fake-indexeddb/auto';
import { TestBed } from '@angular/core/testing';
import { BrowserTestingModule, platformBrowserTesting } from '@angular/platform-browser/testing';
import { afterEach } from 'vitest';

TestBed.initTestEnvironment(BrowserTestingModule, platformBrowserTesting());
afterEach(() => TestBed.resetTestingModule());
